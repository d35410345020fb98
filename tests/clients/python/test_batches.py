"""Batches of both clients: each viewer once, whatever becomes of the calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import grpc
import pytest

from tests.clients.python.conftest import Connect
from vireo.buf.validate import validate_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo_client import (
    Condition,
    FieldViolation,
    Filter,
    InvalidRequest,
    Slate,
    Unavailable,
    VireoError,
)
from vireo_client.calls import MAX_VIEWERS
from vireo_client.testing import FakeStack

Received: TypeAlias = list[tuple[str, Slate]]
Batch: TypeAlias = Callable[..., Awaitable[Received]]


@pytest.fixture
def batch(connect: Connect, stack: FakeStack) -> Batch:
    """Ask the stack for a batch."""

    async def asked(*given: Any, **how: Any) -> Received:
        async with connect(stack.target) as client:
            return [each async for each in client.each("batch", *given, **how)]

    return asked


def names(received: Received) -> list[str]:
    return [viewer for viewer, _ in received]


async def test_any_number_of_viewers_is_asked_for_in_parts(stack: FakeStack, batch: Batch) -> None:
    viewers = [str(number) for number in range(MAX_VIEWERS + 2)]
    stack.slates = {viewer: [f"for {viewer}"] for viewer in viewers}
    received = await batch(iter(viewers))
    assert names(received) == viewers
    assert all(slate.items[0].video_id == f"for {viewer}" for viewer, slate in received)
    assert await batch([]) == []
    assert [len(each.viewer_ids) for each in stack.requests] == [MAX_VIEWERS, 2]


def test_a_part_has_as_many_viewers_as_a_request_may() -> None:
    viewer_ids = pb.BatchRecommendRequest.DESCRIPTOR.fields_by_name["viewer_ids"]
    rules = viewer_ids.GetOptions().Extensions[validate_pb2.field].repeated
    assert rules.max_items == MAX_VIEWERS


async def test_what_is_asked_arrives_and_a_batch_has_one_id(stack: FakeStack, batch: Batch) -> None:
    moment = datetime(2030, 1, 2, tzinfo=UTC)
    stack.fail(grpc.StatusCode.UNAVAILABLE, retry_after=timedelta(0))
    await batch(
        ["a"],
        page_size=3,
        filter=Filter([Condition("tag", any_of=["x"])]),
        locale="de",
        time=moment,
        time_zone="Asia/Tokyo",
        region="JP",
    )
    request = stack.requests[0]
    assert request.page_size == 3
    assert request.filter.conditions[0].any_of == ["x"]
    assert request.context.locale == "de"
    assert (request.context.time_zone, request.context.region) == ("Asia/Tokyo", "JP")
    assert request.context.time.ToDatetime(UTC) == moment
    first, second = (metadata["x-request-id"] for metadata in stack.metadata)
    assert first == second != ""


async def test_calls_that_end_early_are_resumed_and_each_viewer_comes_once(
    stack: FakeStack, batch: Batch
) -> None:
    soon = timedelta(milliseconds=1)
    stack.fail(grpc.StatusCode.UNAVAILABLE, after=2, retry_after=soon)
    stack.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, after=2, retry_after=soon)
    stack.fail(grpc.StatusCode.INTERNAL, after=2)  # as a connection that is reset may
    stack.fail(grpc.StatusCode.CANCELLED, after=2)
    stack.fail(grpc.StatusCode.DEADLINE_EXCEEDED, after=2)  # the stream's own
    viewers = [str(number) for number in range(15)]
    assert names(await batch(viewers)) == viewers
    assert [each.resume_token for each in stack.requests] == ["", "2", "4", "6", "8", "10"]


async def test_an_invalid_batch_and_one_too_large_are_not_repeated(
    stack: FakeStack, batch: Batch
) -> None:
    violation = FieldViolation("page_size", "too large")
    stack.fail(grpc.StatusCode.INVALID_ARGUMENT, violations=[violation])
    with pytest.raises(InvalidRequest) as invalid:
        await batch(["a"])
    assert invalid.value.violations == (violation,)
    stack.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "2,000,000 bytes")
    with pytest.raises(VireoError, match="2,000,000"):
        await batch(["a"])
    assert len(stack.requests) == 2


async def test_without_any_slate_for_too_long_the_last_failure_is_raised(
    stack: FakeStack, batch: Batch
) -> None:
    stack.fail(grpc.StatusCode.UNAVAILABLE, "no pods", times=100, retry_after=timedelta(0))
    with pytest.raises(Unavailable, match="no pods"):
        await batch(["a"], patience=0.3)
    assert 1 < len(stack.requests) < 100


async def test_a_caller_that_reads_no_further_ends_its_call(
    stack: FakeStack, connect: Connect
) -> None:
    async with connect(stack.target) as client:
        slates = client.each("batch", [str(number) for number in range(1000)])
        assert (await anext(slates))[0] == "0"
        await slates.aclose()  # type: ignore[attr-defined]
