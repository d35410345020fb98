"""A pod's pipelines, one after the other on the event loop, and the expected wait for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

import grpc
from prometheus_client import Counter

from vireo.server.pipeline.caller import Caller, CallerGoneError
from vireo.server.rpc.errors import RpcError

Result = TypeVar("Result")

_MEAN_WEIGHT = 0.05
"""Weight of the latest run in the mean time of a run."""

WORK_RUN = Counter("vireo_work_run", "Runs of pipelines and models that completed.")
WORK_ABANDONED = Counter(
    "vireo_work_abandoned",
    "Runs dropped because the caller cancelled or its deadline passed, while waiting or running.",
    ["when"],
)
for _when in ("waiting", "running"):  # so that each is exported as 0 before it happens
    WORK_ABANDONED.labels(_when)


class RunQueue:
    """Runs work in order of arrival, one run at a time. Use it from one event loop.

    A pipeline takes about a millisecond, less than two switches between threads that both want
    the interpreter. So it runs on the event loop, at most one in an iteration: health checks and
    other calls are answered between two runs, however many wait. Longer work takes its turn in
    the same queue, but runs in a thread.

    Work is never begun for a call that was cancelled, or whose deadline has passed, before its
    turn. The queue has no bound of its own: admission control bounds the calls in flight.
    """

    def __init__(self) -> None:
        """Start with an empty queue."""
        self.queued = 0
        """Calls that wait or run."""
        self.mean_run = 0.0
        """Recent mean seconds of a run."""
        self._thread_run_since: float | None = None
        # Held by the call that runs; calls that wait get it in order of arrival.
        self._turn = asyncio.Lock()

    @property
    def expected_wait(self) -> float:
        """Seconds that another call would wait (Little's law)."""
        wait = self.queued * self.mean_run
        if self._thread_run_since is None:
            return wait
        # Work that hangs says more than the mean of the runs before it.
        return max(wait, time.monotonic() - self._thread_run_since)

    async def run(self, work: Callable[[], Result], caller: Caller) -> Result:
        """Return what `work` returns, after it has run on the event loop.

        Raises:
            RpcError: DEADLINE_EXCEEDED if the caller's deadline has passed.
        """
        await self._take_turn(caller)
        begun = time.monotonic()
        try:
            result = work()
        except CallerGoneError as error:
            WORK_ABANDONED.labels("running").inc()
            raise deadline_exceeded() from error
        finally:
            self._end_turn()
        self._ran(time.monotonic() - begun)
        WORK_RUN.inc()
        return result

    async def run_in_thread(self, work: Callable[[], Result], caller: Caller) -> Result:
        """Return what `work` returns, after it has run in a thread: for what takes long.

        Its turn lasts until it has run, even if the call is cancelled.

        Raises:
            RpcError: DEADLINE_EXCEEDED if the caller's deadline has passed.
        """
        await self._take_turn(caller)
        begun = self._thread_run_since = time.monotonic()

        def ended(run: asyncio.Future[Result]) -> None:
            if not run.cancelled() and run.exception() is None:
                WORK_RUN.inc()
            self._thread_run_since = None
            self._ran(time.monotonic() - begun)
            self._end_turn()

        run = asyncio.ensure_future(asyncio.to_thread(_settled, work))
        run.add_done_callback(ended)
        return await asyncio.shield(run)

    async def _take_turn(self, caller: Caller) -> None:
        """Wait until it is the call's turn, which `_end_turn` ends."""
        self.queued += 1
        try:
            await self._turn.acquire()
        except asyncio.CancelledError:
            WORK_ABANDONED.labels("waiting").inc()
            self.queued -= 1
            raise
        if caller.gone:
            WORK_ABANDONED.labels("waiting").inc()
            self._end_turn()
            raise deadline_exceeded()

    def _end_turn(self) -> None:
        self.queued -= 1
        # Not at once: a call that comes in this iteration of the loop would run in it, too.
        asyncio.get_running_loop().call_soon(self._turn.release)

    def _ran(self, seconds: float) -> None:
        self.mean_run += (_MEAN_WEIGHT if self.mean_run else 1.0) * (seconds - self.mean_run)


def deadline_exceeded() -> RpcError:
    """Return the error of a call whose deadline has passed."""
    return RpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")


def _settled(work: Callable[[], Result]) -> Result:
    try:
        return work()
    except StopIteration as error:  # a future refuses it: the turn would never end
        raise RuntimeError("the work raised StopIteration") from error
