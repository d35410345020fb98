"""One thread for work that would hold up the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import weakref
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

import grpc
from prometheus_client import Counter

from server.pipeline.caller import Caller, CallerGoneError
from server.rpc.errors import RpcError

Result = TypeVar("Result")
_Jobs: TypeAlias = SimpleQueue[Callable[[], None] | None]
"""Jobs that the thread is to run in order; None ends it."""

WORK_RUN = Counter(
    "vireo_work_run",
    "Runs that completed: of pipelines and models; on gateways, reads in the thread.",
)
WORK_ABANDONED = Counter(
    "vireo_work_abandoned",
    "Runs dropped because the caller cancelled or its deadline passed, while waiting or running.",
    ["when"],
)
for _when in ("waiting", "running"):  # so that each is exported as 0 before it happens
    WORK_ABANDONED.labels(_when)


class Worker:
    """Runs work in order in one thread, so that the event loop goes on meanwhile.

    A call that is cancelled or past its deadline before its turn is never run.

    It isn't an executor's thread, since an executor takes twice as long to hand work over:
    about 100 µs a call.
    """

    def __init__(self) -> None:
        """Start the thread."""
        self.queued = 0
        """Calls that wait for their answer."""
        self._jobs: _Jobs = SimpleQueue()
        threading.Thread(target=_run_all, args=(self._jobs,), name="worker", daemon=True).start()
        weakref.finalize(self, self._jobs.put, None)

    async def run(self, work: Callable[[], Result], caller: Caller | None = None) -> Result:
        """Return what `work` returns.

        Args:
            work: what to run.
            caller: the caller of the work, marked as gone on cancellation; `work` may check it.

        Raises:
            RpcError: DEADLINE_EXCEEDED if the caller's deadline has passed.
        """
        caller = caller or Caller()
        turn = threading.Lock()  # taken by the thread to run the work, or on cancellation
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()

        def run() -> None:
            if not turn.acquire(blocking=False):
                return
            try:
                result = _run(work, caller)
            except Exception as error:  # noqa: BLE001  it is raised where the call waits
                _settle(loop, answer, partial(answer.set_exception, error))
            else:
                _settle(loop, answer, partial(answer.set_result, result))

        self.queued += 1
        # The context carries the request id into the log lines of the work.
        self._jobs.put(partial(contextvars.copy_context().run, run))
        try:
            return await answer
        except CallerGoneError as error:
            raise deadline_exceeded() from error
        except asyncio.CancelledError:
            caller.leave()
            if turn.acquire(blocking=False):
                WORK_ABANDONED.labels("waiting").inc()
            raise
        finally:
            self.queued -= 1


def deadline_exceeded() -> RpcError:
    """Return the error of a call whose deadline has passed."""
    return RpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")


def _run(work: Callable[[], Result], caller: Caller) -> Result:
    """Run in the thread, unless the caller has gone."""
    if caller.gone:
        WORK_ABANDONED.labels("waiting").inc()
        raise CallerGoneError("the caller has gone")
    try:
        result = work()
    except StopIteration as error:  # a future refuses it: its call would wait for ever
        raise RuntimeError("the work raised StopIteration") from error
    except CallerGoneError:
        WORK_ABANDONED.labels("running").inc()
        raise
    WORK_RUN.inc()
    return result


def _run_all(jobs: _Jobs) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # else it holds a caller's data until the next one comes


def _settle(
    loop: asyncio.AbstractEventLoop, answer: asyncio.Future[Any], settle: Callable[[], None]
) -> None:
    """Have the loop settle an answer, unless its call has gone."""

    def settled() -> None:
        if not answer.done():
            settle()

    try:
        loop.call_soon_threadsafe(settled)
    except RuntimeError:
        if not loop.is_closed():  # and with it all waiting calls
            raise
