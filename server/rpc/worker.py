"""One worker thread for model work, with a short queue before it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

import grpc
from prometheus_client import Counter

from server.pipeline.caller import Caller, CallerGoneError
from server.rpc.codel import TARGET
from server.rpc.errors import RpcError, ShedError, ShedReason
from server.rpc.work_limit import WorkLimit

Result = TypeVar("Result")
_Jobs: TypeAlias = SimpleQueue[Callable[[], None] | None]
"""What the thread is to run next, one after the other; None ends it."""

WORK_RUN = Counter("vireo_work_run", "Work that the worker has run to its end.")
WORK_ABANDONED = Counter(
    "vireo_work_abandoned",
    "Work for callers who had gone: waiting was never begun, running was not gone on with.",
    ["when"],
)
for _when in ("waiting", "running"):  # so that each is shown as 0 before it happens
    WORK_ABANDONED.labels(_when)


class Worker:
    """Runs work off the event loop, so that health checks are answered while models run.

    One thread, since a process has one core: more would only make each call slower. A call
    that is cancelled or past its deadline before its turn is never run.

    The thread is its own, and not an executor's, which takes twice as long to hand work over:
    some 100 µs a call.
    """

    def __init__(self, target: float = TARGET) -> None:
        """Takes the seconds that calls may wait all the time; see Codel."""
        self.limit = WorkLimit(target)
        """How many calls may wait."""
        self._jobs: _Jobs = SimpleQueue()
        threading.Thread(target=_run_all, args=(self._jobs,), name="model", daemon=True).start()
        weakref.finalize(self, self._jobs.put, None)

    def refusal(self, left: float) -> ShedReason | None:
        """Why a call would be shed, if so; `left` is until its deadline, in seconds."""
        return self.limit.refusal(time.monotonic(), left)

    async def run(self, work: Callable[[], Result], caller: Caller | None = None) -> Result:
        """What `work` returns.

        Args:
            work: what to run.
            caller: whom it is for; told of a cancellation, so that `work` can ask between steps.

        Raises:
            RpcError: RESOURCE_EXHAUSTED where it would wait for too long, and nothing was run;
                DEADLINE_EXCEEDED where the caller's deadline had passed.
        """
        caller = caller or Caller()
        refused = self.refusal(caller.left)
        if refused is not None:
            raise ShedError(refused)
        joined = time.monotonic()
        begun: float | None = None
        turn = threading.Lock()  # whoever has it first: the thread to run the work, or who gives up

        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()

        def run() -> None:
            nonlocal begun
            if not turn.acquire(blocking=False):
                return
            begun = time.monotonic()
            try:
                result = self._run(work, caller, begun)
            except Exception as error:  # noqa: BLE001  it is raised where the call waits
                _tell(loop, answer, partial(answer.set_exception, error))
            else:
                _tell(loop, answer, partial(answer.set_result, result))

        self.limit.queued += 1
        # The context carries the request id into the stages' log lines.
        self._jobs.put(partial(contextvars.copy_context().run, run))
        try:
            return await answer
        except CallerGoneError as error:
            raise RpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed") from error
        except asyncio.CancelledError:
            caller.leave()
            if turn.acquire(blocking=False):
                WORK_ABANDONED.labels("waiting").inc()
            raise
        finally:
            self.limit.queued -= 1
            # Who gave up while waiting has waited that long at least.
            now = time.monotonic()
            self.limit.queue.observe(now, (begun or now) - joined)

    def _run(self, work: Callable[[], Result], caller: Caller, begun: float) -> Result:
        """Runs in the worker's thread, the only one that tells the limit of runs."""
        if caller.gone:
            WORK_ABANDONED.labels("waiting").inc()
            raise CallerGoneError("the caller has gone")
        self.limit.running_since = begun
        try:
            result = work()
        except CallerGoneError:
            WORK_ABANDONED.labels("running").inc()
            raise
        finally:
            self.limit.running_since = None
            self.limit.ran(time.monotonic() - begun)
        WORK_RUN.inc()
        return result


def _run_all(jobs: _Jobs) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # which holds a caller's data until the next one comes


def _tell(
    loop: asyncio.AbstractEventLoop, answer: asyncio.Future[Any], settle: Callable[[], None]
) -> None:
    """Has the loop settle an answer, unless its call is gone."""

    def settled() -> None:
        if not answer.done():
            settle()

    try:
        loop.call_soon_threadsafe(settled)
    except RuntimeError:
        if not loop.is_closed():  # and with it all who waited
            raise
