"""Keeps a pod's worker processes running: they share its port, and each has one of its own.

A process of its own, `python -m server.rpc.worker_supervisor PLAN`: without gRPC and models it is
small.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack

import structlog
from prometheus_client import Counter, Gauge

from server.errors import VireoError
from server.rpc.die_with_parent import wrapped
from server.rpc.logs import configure_logs
from server.rpc.metrics import MetricsEndpoint
from server.rpc.ports import hold
from server.rpc.worker_place import BEAT_SECONDS, SERVES, WorkerPlace
from server.rpc.workers_plan import WorkersPlan

log = structlog.get_logger()

_FIRST_BACKOFF = 0.2
_LONGEST_BACKOFF = 10.0
_STABLE_SECONDS = 30.0
"""A worker process that ran this long starts over with the first back-off."""
_LOOK_SECONDS = 2 * BEAT_SECONDS
_MOST_SILENT_LOOKS = 30
"""After so many without a word a worker process is taken for stuck, and killed. Counted and not
timed: where the whole pod stood still, nobody is to blame."""
_MOST_SAID = 1024
"""Bytes to take at once of what one has told."""

RESTARTS = Counter("vireo_worker_restarts", "Worker processes that ended and were started again.")
SERVING = Gauge("vireo_workers_serving", "Worker processes of this pod that serve.")


class WorkerSupervisor:
    """The worker processes of one pod. Use it from one event loop, once."""

    def __init__(self, plan: WorkersPlan, port: int) -> None:
        """Takes what to run, and the port that they share, which is never 0."""
        self._plan = plan
        self._port = port
        self._stopping = asyncio.Event()
        self._others_begin = asyncio.Event()
        """Set once one serves, or all are to stop."""
        self._running: dict[int, _WorkerProcess] = {}
        # A copy, since metrics are asked for from another thread.
        SERVING.set_function(lambda: sum(each.serves for each in [*self._running.values()]))

    async def run(self) -> int:
        """Runs them until told to stop, or until none starts; gives the exit code.

        The first begins alone: it fetches and verifies the release for all of them, and settings
        that don't fit are told once. The others begin when it serves.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        codes = await asyncio.gather(*(self._keep(each + 1) for each in range(self._plan.workers)))
        log.info("stopped")
        return next((code for code in codes if code), 0)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            self._tell(number)
            os._exit(128 + number)
        log.info("stopping", signal=number.name)
        self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        self._others_begin.set()
        self._tell(signal.SIGTERM)

    def _tell(self, number: signal.Signals) -> None:
        for worker in self._running.values():
            worker.tell(number)

    @property
    def _one_serves(self) -> bool:
        return any(each.serves for each in self._running.values())

    async def _keep(self, number: int) -> int:
        """Keeps a worker process running until all are to stop; gives its last exit code."""
        if number > 1:
            await self._others_begin.wait()
        backoff = _FIRST_BACKOFF
        clock = asyncio.get_running_loop().time
        while not self._stopping.is_set():
            began = clock()
            worker = self._running[number] = await self._start(number)
            if self._stopping.is_set():  # told while it was being made
                worker.tell(signal.SIGTERM)
            code = await worker.ended()
            del self._running[number]
            if self._stopping.is_set():
                return _as_exit_code(code)
            if not worker.serves and not self._one_serves:
                # So a pod of one process ends, by settings that don't fit for example.
                log.error("no worker process serves", worker=number, ended=_in_words(code))
                self._stop()
                return _as_exit_code(code) or 1
            RESTARTS.inc()
            if clock() - began > _STABLE_SECONDS:
                backoff = _FIRST_BACKOFF
            log.error(
                "worker process is started again",
                worker=number,
                ended=_in_words(code),
                seconds=backoff,
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff)
            backoff = min(2 * backoff, _LONGEST_BACKOFF)
        return 0

    async def _start(self, number: int) -> _WorkerProcess:
        ours, theirs = socket.socketpair()
        with theirs:
            place = WorkerPlace(number, self._port, self._one_serves, theirs.fileno())
            process = await asyncio.create_subprocess_exec(
                *wrapped([*self._plan.command]),
                env={**os.environ, **place.environment},
                pass_fds=(theirs.fileno(),),
                # Ctrl-C in a terminal is for this process alone, which passes it on.
                start_new_session=True,
            )
        return _WorkerProcess(process, ours, self._others_begin.set)


class _WorkerProcess:
    """One life of a worker process."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        link: socket.socket,
        on_serving: Callable[[], None],
    ) -> None:
        """Takes the process, where it tells how it is, and what to call once it serves."""
        link.setblocking(False)
        self.serves = False
        self._process = process
        self._link = link
        self._on_serving = on_serving
        self._heard = False

    def tell(self, number: signal.Signals) -> None:
        """Sends it a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def ended(self) -> int:
        """Waits for its end and gives its exit code, negative for a signal.

        Kills it should it get stuck.
        """
        tasks = [asyncio.ensure_future(work) for work in (self._listen(), self._watch())]
        try:
            return await self._process.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._link.close()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):  # it has ended
            while said := await loop.sock_recv(self._link, _MOST_SAID):
                self._heard = True
                if SERVES in said:
                    self.serves = True
                    self._on_serving()

    async def _watch(self) -> None:
        silent = 0
        while silent < _MOST_SILENT_LOOKS:
            self._heard = False
            await asyncio.sleep(_LOOK_SECONDS)
            silent = 0 if self._heard else silent + 1
        log.error("worker process is stuck and is killed", pid=self._process.pid)
        self.tell(signal.SIGKILL)


def _as_exit_code(code: int) -> int:
    """As shells tell it: 128 and the signal's number where a signal ended the process."""
    return code if code >= 0 else 128 - code


def _in_words(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def main(plan: WorkersPlan) -> int:
    """Runs a pod's worker processes to their end; gives the exit code.

    Raises:
        VireoError: a port is taken.
    """
    configure_logs(plan.log_level, pod=plan.pod)
    with ExitStack() as stack:
        held = stack.enter_context(hold(plan.host, plan.port))
        port: int = held.getsockname()[1]
        for number in range(1, plan.workers + 1):
            stack.enter_context(hold(plan.host, port + number))
        if plan.metrics_port:
            endpoint = MetricsEndpoint.open(plan.metrics_port, host=plan.metrics_host)
            stack.callback(endpoint.close)
        log.info("worker processes", workers=plan.workers, port=port)
        return asyncio.run(WorkerSupervisor(plan, port).run())


if __name__ == "__main__":
    try:
        sys.exit(main(WorkersPlan.read(sys.argv[1])))
    except VireoError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
