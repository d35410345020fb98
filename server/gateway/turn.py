"""The gateway turns last: to a new release only once the pods behind it serve that one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import grpc.aio
import structlog
from vireo.v1.release_pb2 import GetServingReleaseRequest, GetServingReleaseResponse

if TYPE_CHECKING:
    from vireo.v1.release_pb2_grpc import ReleaseServiceAsyncStub

log = structlog.get_logger()

_MIN_IN_A_ROW = 20
_IN_A_ROW_PER_POD = 10
"""How many answers in a row say that all pods behind a balancer have turned. It may draw them by
chance: a pod that lags is then missed by all of them once in some twenty thousand times."""
_MAX_PODS = 1000
"""Names of pods that are counted: one that says another in each answer would never be done with."""
_PAUSE_SECONDS = 0.02
_LONGER_PAUSE_SECONDS = 0.1
"""While a pod is known not to serve the release: it takes its core to build it."""
_CALL_SECONDS = 1.0
_LONGEST_SECONDS = 900.0
"""A load that takes longer than this is taken for stuck."""


class InnerPods:
    """The candidate and ranking pods, as the gateway reaches them."""

    def __init__(
        self,
        stubs: Sequence[ReleaseServiceAsyncStub],
        limit: float,
        longest: float = _LONGEST_SECONDS,
    ) -> None:
        """Takes a stub of each kind of pod, and how long to wait for them.

        Args:
            stubs: one a kind.
            limit: the most seconds to wait while no pod says that it loads the release.
            longest: the most seconds to wait in all.
        """
        self._stubs = stubs
        self._limit = limit
        self._longest = longest

    async def serving(self, release_id: str) -> None:
        """Returns once all pods serve a release, or once the time is over.

        The latter is no failure: the pods may be gone for good, and answers that mix releases
        say so.
        """
        clock = asyncio.get_running_loop().time
        start = clock()
        end = start + self._longest
        try:
            async with asyncio.timeout_at(min(start + self._limit, end)) as timeout:

                def loads() -> None:
                    timeout.reschedule(min(clock() + self._limit, end))

                # Unlike `gather` this leaves none of them behind, asking for ever.
                async with asyncio.TaskGroup() as group:
                    for stub in self._stubs:
                        group.create_task(_all_serve(stub, release_id, loads))
        except TimeoutError:
            log.warning(
                "pods don't serve the release yet; turning to it all the same",
                release=release_id,
                seconds=round(clock() - start, 1),
            )


async def _all_serve(
    stub: ReleaseServiceAsyncStub, release_id: str, loads: Callable[[], None]
) -> None:
    """Returns once all pods of a kind serve a release; calls `loads` whenever one loads it."""
    pods: set[str] = set()
    in_a_row = 0
    while in_a_row < max(_MIN_IN_A_ROW, _IN_A_ROW_PER_POD * len(pods)):
        try:
            answer: GetServingReleaseResponse | None = await stub.GetServingRelease(
                GetServingReleaseRequest(), timeout=_CALL_SECONDS
            )
        except grpc.aio.AioRpcError:
            answer = None  # a pod that restarts, say: whatever it serves then is asked for again
        if answer is None:  # gRPC's answer, too, for one that can't be parsed
            in_a_row = 0
        else:
            if len(pods) < _MAX_PODS:
                pods.add(answer.pod)
            in_a_row = in_a_row + 1 if answer.release_id == release_id else 0
            if in_a_row == 0 and answer.loading.release_id == release_id:
                loads()
        await asyncio.sleep(_PAUSE_SECONDS if in_a_row else _LONGER_PAUSE_SECONDS)
