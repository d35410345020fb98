"""One worker thread for model work, with a short queue before it."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import grpc
from prometheus_client import Counter

from server.pipeline.caller import Caller, CallerGoneError
from server.rpc.codel import TARGET
from server.rpc.errors import RpcError, ShedError, ShedReason
from server.rpc.work_limit import WorkLimit

Result = TypeVar("Result")

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
    """

    def __init__(self, target: float = TARGET) -> None:
        """Takes the seconds that calls may wait all the time; see Codel."""
        self.limit = WorkLimit(target)
        """How many calls may wait."""
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="model")

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

        def run() -> Result:
            nonlocal begun
            begun = time.monotonic()
            return self._run(work, caller, begun)

        self.limit.queued += 1
        # The context carries the request id into the stages' log lines.
        future = self._threads.submit(contextvars.copy_context().run, run)
        try:
            return await asyncio.wrap_future(future)
        except CallerGoneError as error:
            raise RpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed") from error
        except asyncio.CancelledError:
            caller.leave()
            if future.cancelled():
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
