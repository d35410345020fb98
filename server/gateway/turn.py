"""Gateways swap last: to a new release only once the pods behind them serve it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc.aio
import structlog

from vireo.v1.release_pb2 import GetServingReleaseRequest, GetServingReleaseResponse

if TYPE_CHECKING:
    from vireo.v1.release_pb2_grpc import ReleaseServiceAsyncStub

log = structlog.get_logger()

_PAUSE_SECONDS = 0.1
_CALL_SECONDS = 2.0
_MAX_SECONDS = 900.0
"""A load that takes longer than this counts as stuck."""


class InnerPods:
    """The candidate and ranking pods, as the control plane knows them."""

    def __init__(
        self, control: ReleaseServiceAsyncStub, limit: float, max_seconds: float = _MAX_SECONDS
    ) -> None:
        """Set how to reach the control plane, and the timeouts.

        Args:
            control: the control plane's ReleaseService.
            limit: maximum seconds to wait while no pod is known to load the release.
            max_seconds: maximum seconds to wait in all.
        """
        self._control = control
        self._limit = limit
        self._max_seconds = max_seconds

    async def serving(self, release_id: str) -> None:
        """Return once all pods serve a release, or after the timeout.

        A timeout is no failure: the pods or the control plane may be gone for good, and slates of
        mixed releases say so.
        """
        clock = asyncio.get_running_loop().time
        start = clock()
        end = start + self._max_seconds
        try:
            async with asyncio.timeout_at(min(start + self._limit, end)) as timeout:
                while (pods := await self._ask()).release_id != release_id:
                    if pods.loading.release_id == release_id:
                        timeout.reschedule(min(clock() + self._limit, end))
                    await asyncio.sleep(_PAUSE_SECONDS)
        except TimeoutError:
            log.warning(
                "pods don't serve the release yet; swapping anyway",
                release=release_id,
                seconds=round(clock() - start, 1),
            )

    async def _ask(self) -> GetServingReleaseResponse:
        """Return what all pods serve; an empty response while the control plane has none."""
        try:
            response: GetServingReleaseResponse | None = await self._control.GetServingRelease(
                GetServingReleaseRequest(), timeout=_CALL_SECONDS
            )
        except grpc.aio.AioRpcError:
            response = None  # for example while the control plane restarts: it is asked again
        return response or GetServingReleaseResponse()
