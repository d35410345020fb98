"""The gateway waits until the pods behind it serve a release before it swaps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
import structlog

from tests.builders.chain import NOWHERE
from tests.builders.rpc import answering_bytes
from vireo.server.gateway.release import pods_serve
from vireo.v1.release_pb2 import (
    GetServingReleaseResponse,
    ReleaseLoad,
)
from vireo.v1.release_pb2_grpc import ReleaseServiceStub

FOREVER = 3600.0


@asynccontextmanager
async def answering(responses: list[GetServingReleaseResponse | bytes]) -> AsyncIterator[Any]:
    """A stub of a control plane that answers with each response in turn, then with the last."""

    def answer() -> bytes:
        response = responses.pop(0) if len(responses) > 1 else responses[0]
        return response if isinstance(response, bytes) else response.SerializeToString()

    async with answering_bytes(answer) as address, grpc.aio.insecure_channel(address) as channel:
        yield ReleaseServiceStub(channel)


def serving(release_id: str, loading: str = "") -> GetServingReleaseResponse:
    load = ReleaseLoad(release_id=loading) if loading else None
    return GetServingReleaseResponse(release_id=release_id, loading=load)


async def test_it_is_time_once_all_pods_serve_the_release() -> None:
    async with answering([serving("old"), serving("", "new"), serving("new")]) as control:
        with structlog.testing.capture_logs() as logs:
            await asyncio.wait_for(pods_serve(control, FOREVER, "new"), 60)
    assert not logs


async def test_pods_are_waited_for_as_long_as_they_load() -> None:
    # A response each tenth of a second: for longer than the limit.
    loading = [serving("old", "new")] * 30
    async with answering([*loading, serving("new")]) as control:
        with structlog.testing.capture_logs() as logs:
            await asyncio.wait_for(pods_serve(control, 2.0, "new"), 60)
    assert not logs


@pytest.mark.parametrize(
    ("response", "limit", "longest"),
    [
        (serving("old"), 0.3, FOREVER),
        (serving("old", loading="another"), 0.3, FOREVER),
        (serving("old", loading="new"), FOREVER, 0.3),
        (b"\xff\xff", 0.3, FOREVER),
    ],
    ids=["none loads it", "they load another", "a load never ends", "the answer makes no sense"],
)
async def test_a_wait_is_bounded_and_logged(
    response: GetServingReleaseResponse | bytes, limit: float, longest: float
) -> None:
    async with answering([response]) as control:
        with structlog.testing.capture_logs() as logs:
            await asyncio.wait_for(pods_serve(control, limit, "new", longest), 60)
    assert [line["release"] for line in logs if line["log_level"] == "warning"] == ["new"]


async def test_without_a_control_plane_the_wait_is_bounded() -> None:
    async with grpc.aio.insecure_channel(NOWHERE) as channel:
        await asyncio.wait_for(pods_serve(ReleaseServiceStub(channel), 0.3, "new"), 60)
