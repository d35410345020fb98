"""The gateway turns last: to a new release only once the pods behind it serve that one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc.aio
import structlog
from vireo.v1.release_pb2 import GetServingReleaseRequest

if TYPE_CHECKING:
    from vireo.v1.release_pb2_grpc import ReleaseServiceAsyncStub

log = structlog.get_logger()

_ANSWERS_IN_A_ROW = 10
"""How many say that all pods behind a balancer have turned: it sends each to another pod, or to
one drawn by chance; with two pods one that lags is missed once in a thousand times."""
_PAUSE_SECONDS = 0.02
_CALL_SECONDS = 1.0


class InnerPods:
    """The candidate and ranking pods, as the gateway reaches them."""

    def __init__(self, stubs: Sequence[ReleaseServiceAsyncStub], limit: float) -> None:
        """Takes a stub of each kind of pod, and the most seconds to wait for them."""
        self._stubs = stubs
        self._limit = limit

    async def serving(self, release_id: str) -> None:
        """Returns once all pods serve a release, or once the time is over.

        The latter is no failure: the pods may be gone for good, and answers that mix releases
        say so.
        """
        try:
            async with asyncio.timeout(self._limit):
                await asyncio.gather(*(_all_serve(stub, release_id) for stub in self._stubs))
        except TimeoutError:
            log.warning(
                "pods don't serve the release yet; turning to it all the same",
                release=release_id,
                seconds=self._limit,
            )


async def _all_serve(stub: ReleaseServiceAsyncStub, release_id: str) -> None:
    in_a_row = 0
    while in_a_row < _ANSWERS_IN_A_ROW:
        try:
            answer = await stub.GetServingRelease(GetServingReleaseRequest(), timeout=_CALL_SECONDS)
            in_a_row = in_a_row + 1 if answer.release_id == release_id else 0
        except grpc.aio.AioRpcError:
            in_a_row = 0  # a pod that restarts, say: whatever it serves then is asked for again
        await asyncio.sleep(_PAUSE_SECONDS)
