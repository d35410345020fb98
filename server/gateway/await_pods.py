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


async def pods_serve(
    control: ReleaseServiceAsyncStub,
    limit: float,
    release_id: str,
    max_seconds: float = _MAX_SECONDS,
) -> None:
    """Return once all candidate and ranking pods serve a release, or after the timeout.

    A timeout is no failure: the pods or the control plane may be gone for good, and slates of mixed
    releases say so.

    Args:
        control: the control plane, which knows the pods.
        limit: maximum seconds to wait while no pod is known to load the release.
        release_id: the release.
        max_seconds: maximum seconds to wait in all.
    """
    clock = asyncio.get_running_loop().time
    start = clock()
    end = start + max_seconds
    try:
        async with asyncio.timeout_at(min(start + limit, end)) as timeout:
            while (pods := await _ask(control)).release_id != release_id:
                if pods.loading.release_id == release_id:
                    timeout.reschedule(min(clock() + limit, end))
                await asyncio.sleep(_PAUSE_SECONDS)
    except TimeoutError:
        log.warning(
            "pods don't serve the release yet; swapping anyway",
            release=release_id,
            seconds=round(clock() - start, 1),
        )


async def _ask(control: ReleaseServiceAsyncStub) -> GetServingReleaseResponse:
    """Return what all pods serve; an empty response while the control plane has none."""
    request = GetServingReleaseRequest()
    try:
        response: GetServingReleaseResponse | None = await control.GetServingRelease(
            request, timeout=_CALL_SECONDS
        )
    except grpc.aio.AioRpcError:  # for example while it restarts: it is asked again
        return GetServingReleaseResponse()
    return response or GetServingReleaseResponse()  # None if it can't be parsed
