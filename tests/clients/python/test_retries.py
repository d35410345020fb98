"""When clients send requests and events again, how often at most, and how long they wait."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta

import grpc
import pytest

from tests.clients.python.conftest import Connect, Recommend
from vireo_client import Event, Overloaded, Unavailable, VireoError
from vireo_client.testing import FakeStack

DRAINING, SHED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED
SOON = timedelta(milliseconds=20)
EVENT = Event.like("viewer", "video")


def assert_same_deadline(stack: FakeStack) -> None:
    """Two calls end at one time, though half a second lay between them."""
    first, second = (context.time_remaining() for context in stack.contexts)
    assert abs(first - second) < 0.25


@pytest.mark.parametrize(
    ("code", "retry_after", "times", "sent", "ends"),
    [
        (DRAINING, SOON, 2, 3, None),
        (DRAINING, SOON, 3, 3, Unavailable),
        (SHED, SOON, 1, 2, None),
        (SHED, SOON, 2, 2, Overloaded),
        (SHED, timedelta(seconds=60), 1, 1, Overloaded),  # after the deadline
        (grpc.StatusCode.INTERNAL, None, 1, 1, VireoError),
        (grpc.StatusCode.INVALID_ARGUMENT, None, 1, 1, VireoError),
    ],
    ids=["draining", "draining for long", "shed", "shed twice", "late", "failure", "refusal"],
)
async def test_a_request_is_sent_again_only_where_that_may_help(
    stack: FakeStack,
    recommend: Recommend,
    code: grpc.StatusCode,
    retry_after: timedelta | None,
    times: int,
    sent: int,
    ends: type[VireoError] | None,
) -> None:
    stack.fail(code, times=times, retry_after=retry_after)
    with pytest.raises(ends) if ends else nullcontext():
        assert (await recommend("1", request_id="mine")).items
    assert [each["x-request-id"] for each in stack.metadata] == ["mine"] * sent


async def test_a_retry_gets_the_remaining_deadline(stack: FakeStack, recommend: Recommend) -> None:
    stack.fail(SHED, retry_after=timedelta(seconds=0.5))
    await recommend("1", timeout=9)  # gRPC rounds the timeout up, from 10 s on to whole seconds
    assert_same_deadline(stack)


@pytest.mark.parametrize("code", [DRAINING, SHED], ids=["draining", "shed"])
async def test_one_attempt_is_one(
    stack: FakeStack, connect: Connect, code: grpc.StatusCode
) -> None:
    stack.fail(code, retry_after=SOON)
    async with connect(stack.target, attempts=1) as recommend:
        with pytest.raises(VireoError):
            await recommend("1")
    assert len(stack.requests) == 1


async def test_a_service_that_is_down_gets_no_more_retries(
    stack: FakeStack, recommend: Recommend
) -> None:
    stack.fail(DRAINING, times=60, retry_after=SOON)
    for _ in range(20):
        with pytest.raises(Unavailable):
            await recommend("1")
    assert len(stack.requests) <= 20 + 11


async def test_a_call_has_the_clients_timeout_unless_it_has_its_own(
    stack: FakeStack, connect: Connect
) -> None:
    async with connect(stack.target, timeout=40) as recommend:
        await recommend("1")
        await recommend("1", timeout=90)
    default, own = (context.time_remaining() for context in stack.contexts)
    assert 0 < default < 41
    assert 41 < own < 91


@pytest.mark.parametrize("attempts", [0, 6])
async def test_attempts_that_grpc_would_not_make_are_refused(
    connect: Connect, attempts: int
) -> None:
    with pytest.raises(ValueError, match="from 1 to 5"):
        async with connect("127.0.0.1:1", attempts=attempts):
            pass


async def test_events_have_more_time_than_slates(connect: Connect, stack: FakeStack) -> None:
    async with connect(stack.target, timeout=0.01) as client:
        assert await client.call("record_events", [EVENT]) == 1
        assert await client.call("record_events", [EVENT], timeout=90) == 1
        assert await client.call("stream_events", [[EVENT], [EVENT]]) == 2
    default, own, stream = (context.time_remaining() for context in stack.contexts)
    assert 0.01 < default <= 5.1
    assert 5.1 < own <= 91
    # More than that after which the server ends a stream: it says what was recorded.
    assert 300 < stream <= 321


async def test_events_that_cannot_be_stored_are_sent_once_more_after_the_servers_delay(
    connect: Connect, stack: FakeStack
) -> None:
    stack.fail(DRAINING, times=3, retry_after=timedelta(seconds=0.5))
    async with connect(stack.target, timeout=9) as client:  # gRPC rounds more to whole seconds
        with pytest.raises(Unavailable):
            await client.call("record_events", [EVENT])
        assert_same_deadline(stack)
        assert await client.call("record_events", [EVENT]) == 1
    assert len(stack.contexts) == 4


async def test_a_delay_beyond_the_deadline_and_one_attempt_are_no_retry(
    connect: Connect, stack: FakeStack
) -> None:
    stack.fail(DRAINING, retry_after=timedelta(seconds=60))
    async with connect(stack.target, timeout=60) as client:
        with pytest.raises(Unavailable):
            await client.call("record_events", [EVENT])
    stack.fail(DRAINING, retry_after=timedelta(0))
    async with connect(stack.target, timeout=60, attempts=1) as client:
        with pytest.raises(Unavailable):
            await client.call("record_events", [EVENT])
    assert len(stack.contexts) == 2
