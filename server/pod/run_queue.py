"""A pod's pipelines, one after the other on the event loop."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable
from typing import TypeVar

import grpc
from prometheus_client import Counter

from vireo.server.recommend.runner import Caller, CallerGoneError
from vireo.server.rpc.admission import Slot, Slots
from vireo.server.rpc.errors import RpcError

Result = TypeVar("Result")

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
    other calls are answered between two runs, however many wait. Longer work takes its slot in
    the same queue, but runs in a thread.

    Work is never begun for a call that was cancelled, or whose deadline has passed, before it had
    its slot.
    """

    def __init__(self, max_wait: float = math.inf) -> None:
        """Start with an empty queue; for `max_wait` see `Slots`."""
        # Admission control bounds the calls that wait.
        self.slots = Slots(1, math.inf, waiting=sys.maxsize, max_wait=max_wait)
        """Its one slot, which a run holds, and the calls that wait for it."""

    @property
    def queued(self) -> int:
        """Calls that wait or run."""
        return self.slots.held + self.slots.waiting

    async def run(self, work: Callable[[], Result], caller: Caller) -> Result:
        """Return what `work` returns, after it has run on the event loop.

        Raises:
            RpcError: DEADLINE_EXCEEDED if the caller's deadline has passed; RESOURCE_EXHAUSTED if
                too many wait.
        """
        slot = await self._slot(caller)
        try:
            result = work()
        except CallerGoneError as error:
            WORK_ABANDONED.labels("running").inc()
            raise deadline_exceeded() from error
        finally:
            self._give_back(slot)
        WORK_RUN.inc()
        return result

    async def run_in_thread(self, work: Callable[[], Result], caller: Caller) -> Result:
        """Return what `work` returns, after it has run in a thread: for what takes long.

        It holds its slot until it has run, even if the call is cancelled.

        Raises:
            RpcError: as in `run`.
        """
        slot = await self._slot(caller)

        def ended(run: asyncio.Future[Result]) -> None:
            if not run.cancelled() and run.exception() is None:
                WORK_RUN.inc()
            self._give_back(slot)

        run = asyncio.ensure_future(asyncio.to_thread(_settled, work))
        run.add_done_callback(ended)
        return await asyncio.shield(run)

    async def _slot(self, caller: Caller) -> Slot:
        try:
            slot = await self.slots.take("")
        except asyncio.CancelledError:
            WORK_ABANDONED.labels("waiting").inc()
            raise
        if caller.gone:
            WORK_ABANDONED.labels("waiting").inc()
            self._give_back(slot)
            raise deadline_exceeded()
        return slot

    def _give_back(self, slot: Slot) -> None:
        # Not at once: a call that comes in this iteration of the loop would run in it, too.
        asyncio.get_running_loop().call_soon(self.slots.give_back, slot)


def deadline_exceeded() -> RpcError:
    """Return the error of a call whose deadline has passed."""
    return RpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")


def _settled(work: Callable[[], Result]) -> Result:
    try:
        return work()
    except StopIteration as error:  # a future refuses it: the slot would never be free
        raise RuntimeError("the work raised StopIteration") from error
