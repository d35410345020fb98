"""Senders of events, against the fake stack that callers have for their tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
import pytest

from tests.builders.waiting import until
from vireo_client import (
    AsyncClient,
    AsyncEventSender,
    Client,
    Event,
    EventKind,
    EventSender,
    FieldViolation,
    VireoError,
)
from vireo_client.testing import FakeStack

KINDS = ("threads", "asyncio")
NEVER = 600.0
"""Seconds for which a batch would wait to be full."""


@asynccontextmanager
async def sending(
    kind: str, stack: FakeStack, lost: list[tuple[Sequence[Event], Exception]], **options: float
) -> AsyncIterator[EventSender | AsyncEventSender]:
    """A sender of either kind, which a test closes."""
    settings = {name: type(each)(each) for name, each in options.items()}

    def on_lost(events: Sequence[Event], error: Exception) -> None:
        lost.append((events, error))

    if kind == "threads":
        with Client(stack.target) as client:
            yield EventSender(client, on_lost=on_lost, **settings)  # type: ignore[arg-type]
    else:
        async with AsyncClient(stack.target) as other:
            yield AsyncEventSender(other, on_lost=on_lost, **settings)  # type: ignore[arg-type]


async def closed(sender: EventSender | AsyncEventSender, seconds: float = 60) -> int:
    if isinstance(sender, AsyncEventSender):
        return await sender.close(seconds)
    return await asyncio.to_thread(sender.close, seconds)


def play(number: int) -> Event:
    return Event(EventKind.PLAY, "viewer", f"video-{number}")


@pytest.mark.parametrize("kind", KINDS)
async def test_events_go_in_batches_that_are_full_or_have_waited(
    stack: FakeStack, kind: str
) -> None:
    async with sending(kind, stack, [], max_events=10, max_seconds=NEVER) as sender:
        assert all(sender.send(play(number)) for number in range(25))
        await until(lambda: len(stack.events) == 20)
        assert [len(each.events) for each in stack.requests] == [10, 10]
        assert await closed(sender) == 0
        assert sender.recorded == len(stack.events) == 25
    async with sending(kind, stack, [], max_seconds=0.01) as sender:
        sender.send(play(25))
        await until(lambda: len(stack.events) == 26)
        await closed(sender)
        with pytest.raises(ValueError, match="closed"):
            sender.send(play(26))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_restart_of_the_gateway_loses_no_event(stack: FakeStack, kind: str) -> None:
    async with sending(kind, stack, [], max_events=10, max_seconds=0.05) as sender:
        sender.send(play(0))
        await until(lambda: sender.recorded == 1)
        stack.stop()
        for number in range(1, 30):
            sender.send(play(number))
        stack.start()
        stack.fail(grpc.StatusCode.INTERNAL)
        await until(lambda: sender.recorded == 30)
        assert await closed(sender) == 0
    assert len(stack.events) == 30


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_invalid_is_lost_alone(stack: FakeStack, kind: str) -> None:
    lost: list[tuple[Sequence[Event], Exception]] = []
    violation = FieldViolation("events[1].video_id", "must be at least 1 byte")
    stack.fail(grpc.StatusCode.INVALID_ARGUMENT, violations=[violation])
    async with sending(kind, stack, lost, max_seconds=NEVER) as sender:
        for number in range(3):
            sender.send(play(number))
        assert await closed(sender) == 0
    assert (sender.recorded, sender.lost) == (2, 1)
    [(events, error)] = lost
    assert [each.video_id for each in events] == ["video-1"]
    assert isinstance(error, VireoError)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT

    stack.fail(grpc.StatusCode.PERMISSION_DENIED)
    async with sending(kind, stack, lost) as sender:
        sender.send(play(3))
        assert await closed(sender) == 0
    assert len(lost) == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_no_more_events_wait_than_may_and_what_is_left_is_counted(
    stack: FakeStack, kind: str
) -> None:
    stack.stop()
    async with sending(kind, stack, [], max_waiting=5, max_seconds=NEVER) as sender:
        assert [sender.send(play(number)) for number in range(7)] == [True] * 5 + [False] * 2
        assert sender.dropped == 2
        assert await closed(sender, 0.2) == 5


def test_the_fake_stack_answers_as_a_test_says() -> None:
    with FakeStack({"viewer": ["a", "b"]}) as stack, Client(stack.target) as client:
        slate = client.recommend("viewer", page_size=1)
        assert [item.video_id for item in slate] == ["a"]
        assert len(client.recommend("another")) == len(FakeStack.DEFAULT)
        assert [viewer for viewer, _ in client.batch(["1", "viewer"])] == ["1", "viewer"]
        assert client.explain_video("b", "viewer").position == 2
        stack.fail(grpc.StatusCode.NOT_FOUND, "no such video")
        with pytest.raises(VireoError, match="no such video"):
            client.similar("c")
        assert client.remove_videos(["v"]) == 1
        assert stack.requests[0].viewer_id == "viewer"
