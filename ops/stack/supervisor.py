"""Runs processes: starts them, waits until they are healthy, restarts after crashes, stops them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from vireo.ops.stack.die_with_parent import wrapped
from vireo.ops.stack.logs import bound_log, is_large, last_lines, start_log
from vireo.ops.stack.probes import ProcessSpec
from vireo.ops.stack.state import ProcessState
from vireo.server.backoff import backoff
from vireo.server.errors import VireoError

_FIRST_BACKOFF = 0.2
_MAX_BACKOFF = 10.0
_STABLE_SECONDS = 30.0
"""The backoff of a process that ran this long starts over."""
_STARTING_POLL = 0.2
_HEALTHY_POLL = 15.0
"""Seconds between probes of a healthy process. Its end is noticed at once; a pod that hangs gets no
calls long before, by Envoy's own checks. Other processes that hang show up here first."""
_KILL_SECONDS = 5.0
"""Seconds after which a process that should end for being unhealthy is killed."""
_LOG_POLL = 2.0
"""Seconds between looks at the size of a log."""
_LOG_LINES = 15


Fresh: TypeAlias = Callable[[ProcessSpec], ProcessSpec]


class SupervisedProcess:
    """One process that is kept running until it is stopped."""

    def __init__(
        self, spec: ProcessSpec, logs: Path, changed: Callable[[], None], fresh: Fresh
    ) -> None:
        """Start with nothing running.

        Args:
            spec: what to run.
            logs: the folder of its log.
            changed: called whenever its status changes.
            fresh: called before it is started again.
        """
        self.spec = spec
        self.status = ProcessState(
            name=spec.name, port=spec.port, log=logs / f"{spec.name}.log", pool=spec.pool
        )
        self.healthy = asyncio.Event()
        """Set once it has been healthy."""
        self._changed = changed
        self._fresh = fresh
        self._awaited = spec.awaited
        """Whether its end ends the stack: until it was healthy, or is late."""
        self._late = False
        self._process: asyncio.subprocess.Process | None = None
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Run the process, and restart it whenever it ends, until it is stopped.

        Raises:
            VireoError: it is awaited, and ended before it was ever healthy, or late.
        """
        start_log(self.status.log)
        failures = 0
        loop = asyncio.get_running_loop()
        while not self._stop.is_set():
            started = loop.time()
            code = await self._run_once()
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            ended = f"ended with {how}"
            if self._stop.is_set():
                break
            if self._awaited:
                self._update(state="stopped", pid=None, problem=ended)
                raise self.start_error(ended)
            failures = 1 if loop.time() - started > _STABLE_SECONDS else failures + 1
            self._update(
                state="restarting",
                pid=None,
                problem=ended,
                restarts=self.status.restarts + 1,
                ended=ended,
                ended_at=datetime.now(UTC),
            )
            with contextlib.suppress(TimeoutError):
                delay = backoff(failures, _FIRST_BACKOFF, _MAX_BACKOFF)
                await asyncio.wait_for(self._stop.wait(), delay)
            self.spec = self._fresh(self.spec)
        self._update(state="stopped", pid=None, problem="")

    def mark_late(self, seconds: float) -> None:
        """Say that it isn't healthy yet; it goes on starting, and is restarted if it ends."""
        self._awaited, self._late = False, True
        problem = f"not healthy after {seconds:.0f} s ({self.status.problem})"
        self._update(state="unhealthy", problem=problem)

    def terminate(self, number: signal.Signals) -> None:
        """Send a signal to the process and its children; it isn't restarted."""
        self._stop.set()
        self._send(number)

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def start_error(self, problem: str) -> VireoError:
        """Return the error that names this process and shows the end of its log."""
        lines = last_lines(self.status.log, _LOG_LINES) or "(empty)"
        return VireoError(f"{self.spec.name} {problem}; the end of {self.status.log}:\n{lines}")

    async def _run_once(self) -> int:
        """Run the process once, from its start to its exit code."""
        with self.status.log.open("ab") as file:
            self._process = await asyncio.create_subprocess_exec(
                *wrapped(self.spec.command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, **self.spec.environment},
                cwd=self.spec.folder,
                # A group, for signals, within the stack's own session. Linux schedules sessions
                # as wholes (autogroup) and heeds `nice` only within one: in sessions of their own,
                # a loader at a low priority would take time from pods that serve.
                process_group=0,
            )
        self._update(state="starting", pid=self._process.pid, problem="not probed yet")
        if self._stop.is_set():  # stopped while it was starting
            self.terminate(signal.SIGTERM)
        watching = asyncio.gather(self._watch_health(), self._watch_log())
        try:
            return await self._process.wait()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch_log(self) -> None:
        while True:
            if is_large(self.status.log):
                await asyncio.to_thread(bound_log, self.status.log)
            await _next_multiple_of(_LOG_POLL)

    async def _watch_health(self) -> None:
        loop = asyncio.get_running_loop()
        healthy, healthy_at, asked_at = False, 0.0, 0.0
        while True:
            problem = await self._problem()
            if self._stop.is_set():
                return
            if problem:
                state = "unhealthy" if healthy or self._late else "starting"
                self._update(state=state, problem=problem)
                now = loop.time()
                if healthy and now - healthy_at > self.spec.max_unhealthy_seconds:
                    # `run` starts it again.
                    asked_at = asked_at or now
                    late = now - asked_at > _KILL_SECONDS
                    self._send(signal.SIGKILL if late else signal.SIGTERM)
            else:
                healthy, asked_at = True, 0.0
                self._awaited = self._late = False
                self._update(state="healthy", problem="")
                self.healthy.set()
            await (asyncio.sleep(_STARTING_POLL) if problem else _next_multiple_of(_HEALTHY_POLL))
            if not problem:
                healthy_at = loop.time()  # as far as anybody has seen

    async def _problem(self) -> str:
        """Return why it isn't healthy, by its probe; empty if it is."""
        try:
            return await self.spec.probe()
        except Exception as error:  # noqa: BLE001
            # The declared policy: a failed probe is reported and repeated. Otherwise the process
            # would keep its last status for ever.
            return f"its probe failed ({type(error).__name__}: {error})"

    def _update(self, **changes: object) -> None:
        fresh = self.status.model_copy(update=changes)
        if fresh != self.status:
            self.status = fresh
            self._changed()


class Supervisor:
    """Keeps a set of processes running, until `stop` ends them all."""

    def __init__(
        self, logs: Path, changed: Callable[[], None], fresh: Fresh = lambda spec: spec
    ) -> None:
        """Start without processes.

        Args:
            logs: the folder of logs.
            changed: called whenever a status changes.
            fresh: returns what to run of now, given what ran of a process until it ended.
        """
        self._logs = logs
        self._fresh = fresh
        self._changed = changed
        self._processes: list[SupervisedProcess] = []
        self._running: dict[SupervisedProcess, asyncio.Future[None]] = {}

    @property
    def statuses(self) -> list[ProcessState]:
        """Status of each process, in the order in which they were started."""
        return [process.status for process in self._processes]

    async def start(self, specs: Sequence[ProcessSpec], patience: float) -> None:
        """Start processes and wait until all of them that are awaited are healthy.

        Those that aren't after `patience` seconds are late: their status says so, they go on
        starting, and are started again whenever they end.

        Raises:
            VireoError: one that is awaited ended before that; the message ends with its log.
        """
        fresh = [SupervisedProcess(spec, self._logs, self._changed, self._fresh) for spec in specs]
        self._processes += fresh
        self._running |= {process: asyncio.ensure_future(process.run()) for process in fresh}
        awaited = [process for process in fresh if process.spec.awaited]
        healthy = asyncio.gather(*(process.healthy.wait() for process in awaited))

        def mark_late() -> None:
            for process in awaited:
                if not process.healthy.is_set():
                    process.mark_late(patience)

        late = asyncio.get_running_loop().call_later(patience, mark_late)
        try:
            await self._first_of(healthy)
        finally:
            late.cancel()
            healthy.cancel()

    async def watch(self) -> None:
        """Return only by raising, if the supervision of a process itself fails."""
        while True:
            await self._first_of()  # or one was retired

    async def _first_of(self, *others: asyncio.Future[Any]) -> None:
        """Wait for one of `others`; raise if the supervision of a process ends before."""
        waiting = {*others, *self._running.values()}
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for future in done.difference(others):
            future.result()

    async def retire(self, names: Collection[str], patience: float) -> None:
        """End some processes for good; kill those that don't end within `patience` seconds."""
        retired = [each for each in self._processes if each.spec.name in names]
        for process in retired:
            process.terminate(signal.SIGTERM)
        if ending := [self._running.pop(process) for process in retired]:
            await asyncio.wait(ending, timeout=patience)
        for process in retired:
            process.terminate(signal.SIGKILL)
            self._processes.remove(process)
        await asyncio.gather(*ending, return_exceptions=True)  # one may have failed to start
        self._changed()

    async def stop(self, patience: float) -> None:
        """Terminate every process, in the reverse order of starting; kill those that don't end.

        Args:
            patience: seconds until the kill.
        """
        for process in reversed(self._processes):
            process.terminate(signal.SIGTERM)
        if running := self._running.values():
            await asyncio.wait(running, timeout=patience)
            self.kill()
            await asyncio.wait(running, timeout=patience)

    def kill(self) -> None:
        """Kill every process now."""
        for process in self._processes:
            process.terminate(signal.SIGKILL)


async def _next_multiple_of(seconds: float) -> None:
    """Return at the next multiple of `seconds` by the loop's clock, the same for all processes.

    The supervisor, and gRPC's threads in it, then wake up once for all of them.
    """
    await asyncio.sleep(seconds - asyncio.get_running_loop().time() % seconds)
