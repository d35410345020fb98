"""Gateways swap last: to a new release only once the pods behind them serve it."""

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
"""Consecutive responses that show that all pods behind a load balancer serve the release. If it
picks them at random, a pod that lags is missed once in some twenty thousand times."""
_MAX_PODS = 1000
"""Maximum pods that are counted: a pod that changes its name would be waited for forever."""
_PAUSE_SECONDS = 0.02
_LOADING_PAUSE_SECONDS = 0.1
"""While a pod is known not to serve the release: it needs its core to build it."""
_CALL_SECONDS = 1.0
_MAX_SECONDS = 900.0
"""A load that takes longer than this counts as stuck."""


class InnerPods:
    """The candidate and ranking pods, as the gateway reaches them."""

    def __init__(
        self,
        stubs: Sequence[ReleaseServiceAsyncStub],
        limit: float,
        max_seconds: float = _MAX_SECONDS,
    ) -> None:
        """Set how to reach the pods, and the timeouts.

        Args:
            stubs: one per kind of pod.
            limit: maximum seconds to wait while no pod reports that it loads the release.
            max_seconds: maximum seconds to wait in all.
        """
        self._stubs = stubs
        self._limit = limit
        self._max_seconds = max_seconds

    async def serving(self, release_id: str) -> None:
        """Return once all pods serve a release, or after the timeout.

        A timeout is no failure: the pods may be gone for good, and slates of mixed releases say
        so.
        """
        clock = asyncio.get_running_loop().time
        start = clock()
        end = start + self._max_seconds
        try:
            async with asyncio.timeout_at(min(start + self._limit, end)) as timeout:

                def loads() -> None:
                    timeout.reschedule(min(clock() + self._limit, end))

                # Unlike `gather`, this leaves no task behind.
                async with asyncio.TaskGroup() as group:
                    for stub in self._stubs:
                        group.create_task(_all_serve(stub, release_id, loads))
        except TimeoutError:
            log.warning(
                "pods don't serve the release yet; swapping anyway",
                release=release_id,
                seconds=round(clock() - start, 1),
            )


async def _all_serve(
    stub: ReleaseServiceAsyncStub, release_id: str, loads: Callable[[], None]
) -> None:
    """Return once all pods of a kind serve a release; call `loads` whenever one loads it."""
    pods: set[str] = set()
    in_a_row = 0
    while in_a_row < max(_MIN_IN_A_ROW, _IN_A_ROW_PER_POD * len(pods)):
        try:
            answer: GetServingReleaseResponse | None = await stub.GetServingRelease(
                GetServingReleaseRequest(), timeout=_CALL_SECONDS
            )
        except grpc.aio.AioRpcError:
            answer = None  # for example a pod that restarts: it is asked again
        if answer is None:  # also if the response can't be parsed
            in_a_row = 0
        else:
            if len(pods) < _MAX_PODS:
                pods.add(answer.pod)
            in_a_row = in_a_row + 1 if answer.release_id == release_id else 0
            if in_a_row == 0 and answer.loading.release_id == release_id:
                loads()
        await asyncio.sleep(_PAUSE_SECONDS if in_a_row else _LOADING_PAUSE_SECONDS)
