"""Batches of both clients: each viewer once, whatever becomes of the calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import grpc
import pytest

from tests.builders.batches import Batches, served
from tests.builders.gateway import overloaded
from tests.clients.python.conftest import Connect
from vireo.server.rpc.errors import RpcError, invalid_argument, unavailable
from vireo_client import (
    Condition,
    Filter,
    InvalidRequest,
    Slate,
    Unavailable,
    VireoError,
)
from vireo_client.calls import MAX_VIEWERS

Received: TypeAlias = list[tuple[str, Slate]]
Batch: TypeAlias = Callable[..., Awaitable[Received]]


@pytest.fixture
def batch(connect: Connect) -> Batch:
    """Ask a gateway at an address for a batch."""

    async def asked(address: str, *given: Any, **how: Any) -> Received:
        async with connect(address) as client:
            return [each async for each in client.each("batch", *given, **how)]

    return asked


def names(received: Received) -> list[str]:
    assert all(slate.items[0].video_id == f"for {viewer}" for viewer, slate in received)
    return [viewer for viewer, _ in received]


async def test_any_number_of_viewers_is_asked_for_in_parts(batch: Batch) -> None:
    gateway = Batches()
    viewers = [str(number) for number in range(MAX_VIEWERS + 2)]
    async with served(gateway) as address:
        assert names(await batch(address, iter(viewers))) == viewers
        assert await batch(address, []) == []
    assert [len(each.viewer_ids) for each in gateway.requests] == [MAX_VIEWERS, 2]


async def test_what_is_asked_arrives_and_a_batch_has_one_id(batch: Batch) -> None:
    gateway = Batches([unavailable("restarts", timedelta(0))])
    moment = datetime(2030, 1, 2, tzinfo=UTC)
    async with served(gateway) as address:
        await batch(
            address,
            ["a"],
            page_size=3,
            filter=Filter([Condition("tag", any_of=["x"])]),
            locale="de",
            time=moment,
            time_zone="Asia/Tokyo",
            region="JP",
        )
    request = gateway.requests[0]
    assert request.page_size == 3
    assert request.filter.conditions[0].any_of == ["x"]
    assert request.context.locale == "de"
    assert (request.context.time_zone, request.context.region) == ("Asia/Tokyo", "JP")
    assert request.context.time.ToDatetime(UTC) == moment
    assert len(gateway.requests) == 2
    assert len(set(gateway.ids)) == 1
    assert gateway.ids[0]


async def test_calls_that_end_early_are_resumed_and_each_viewer_comes_once(batch: Batch) -> None:
    soon = timedelta(milliseconds=1)
    failures: list[Exception] = [
        unavailable("shuts down", soon),
        overloaded(soon),
        RuntimeError("becomes INTERNAL, as a connection that is reset may"),
        RpcError(grpc.StatusCode.CANCELLED, "reset"),
        RpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "the stream's own"),
    ]
    gateway = Batches(failures, after=2)
    viewers = [str(number) for number in range(15)]
    async with served(gateway) as address:
        assert names(await batch(address, viewers)) == viewers
    assert [each.resume_token for each in gateway.requests] == ["", "2", "4", "6", "8", "10"]


@pytest.mark.parametrize(
    ("failure", "kind", "said"),
    [
        (invalid_argument([("page_size", "too large")]), InvalidRequest, "page_size"),
        (RpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, "2,000,000 bytes"), VireoError, "2,000,000"),
    ],
)
async def test_an_invalid_batch_and_one_too_large_are_not_repeated(
    batch: Batch, failure: RpcError, kind: type[VireoError], said: str
) -> None:
    gateway = Batches([failure])
    async with served(gateway) as address:
        with pytest.raises(kind, match=said):
            await batch(address, ["a"])
    assert len(gateway.requests) == 1


async def test_without_any_slate_for_too_long_the_last_failure_is_raised(batch: Batch) -> None:
    gateway = Batches([unavailable("no pods", timedelta(0))] * 100)
    async with served(gateway) as address:
        with pytest.raises(Unavailable, match="no pods"):
            await batch(address, ["a"], patience=0.3)
    assert 1 < len(gateway.requests) < 100


async def test_a_caller_that_reads_no_further_ends_its_call(connect: Connect) -> None:
    async with served(Batches()) as address, connect(address) as client:
        slates = client.each("batch", [str(number) for number in range(1000)])
        assert (await anext(slates))[0] == "0"
        await slates.aclose()  # type: ignore[attr-defined]
