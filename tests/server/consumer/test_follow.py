"""Followers in one process with a real log and real online stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.builders.event_batches import HIDE, empty_repository, event, message
from tests.builders.reading import take
from tests.builders.redis import RunningRedis
from tests.builders.waiting import until
from vireo.server.consumer import follow
from vireo.server.consumer.follow import Follower
from vireo.server.consumer.live_state import LiveState
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import DEAD, EVENTS, STATE, Position
from vireo.server.features.keys import video_key
from vireo.server.features.online_store import open_rows
from vireo.server.features.redis_store import RedisStore
from vireo.server.features.viewer_rows import ViewerRow
from vireo.server.features.viewer_store import ViewerStore, active_key, series_of
from vireo.training.features.online_store import OnlineStoreSettings
from vireo.v1 import log_pb2


def follower_of(
    log: JetStreamLog, repo: Path, partition: int, state: LiveState | None = None
) -> Follower:
    return Follower(log, repo, partition, state or LiveState(log, partition, 3600.0), timeout=5)


@asynccontextmanager
async def following(follower: Follower) -> AsyncIterator[asyncio.Task[None]]:
    """A follower that runs, stopped in the end."""
    task = asyncio.create_task(follower.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def hidden(rows: ViewerStore) -> set[int]:
    """The videos that the viewer has hidden."""
    [row] = rows.read(["v"])
    assert isinstance(row, ViewerRow)
    return {*row.hides}


async def reached(rows: ViewerStore, partition: int, sequence: int) -> None:
    """Return once the rows have a partition's events up to a position."""
    await until(lambda: rows.position(partition).sequence == sequence)


async def counts(sequence: int, *states: LiveState) -> None:
    """Return once the first of some states has counted up to a position."""
    await until(lambda: max(state.counted for state in states) == sequence)


async def test_rows_of_the_build_that_is_announced_are_followed_at_once(
    redis: RunningRedis, log: JetStreamLog, folder: Path
) -> None:
    """The folder is the one before, as NFS may show it to another node."""
    repo = empty_repository(folder / "a", OnlineStoreSettings(online_store="redis"))
    rows, partition = open_rows(repo, 5), 1
    assert isinstance(rows, RedisStore)
    first = await log.append(EVENTS, str(partition), message([event("v", "a", HIDE)]))
    async with following(follower_of(log, repo, partition)):
        await reached(rows, partition, first)
        rows.redis.set(active_key(series_of(rows.project)), "another")
        last = await log.append(EVENTS, str(partition), message([event("v", "b", HIDE)]))
        announced = open_rows(repo, 5)
        await reached(announced, partition, last)
    assert hidden(rows) == {video_key("a")}
    assert hidden(announced) == {video_key("a"), video_key("b")}


async def test_what_cannot_be_applied_is_kept_once_however_often_it_is_read(
    log: JetStreamLog, folder: Path
) -> None:
    """Also if a log that lost its events has others at the same positions."""
    repo, partition = empty_repository(folder / "a"), 2
    rows = open_rows(repo, 5)
    for garbage in (b"\xff", b"\xfe"):
        last = await log.append(EVENTS, str(partition), garbage)
        async with following(follower_of(log, repo, partition)):
            await reached(rows, partition, last)
        rows.commit(partition, rows.position(partition), Position(), {})  # as of a copy before
    async with following(follower_of(log, repo, partition)):
        await reached(rows, partition, last)
    found = [log_pb2.DeadEvents.FromString(each.data) for each in await take(log, DEAD, "2")]
    assert [each.recorded for each in found] == [b"\xff", b"\xfe"]


async def trending(log: JetStreamLog, partition: int) -> dict[int, float]:
    """The weights that were published last."""
    [entry] = await take(log, STATE, f"trending.{partition}")
    told = log_pb2.Trending.FromString(entry.data)
    return dict(zip(told.lists[0].keys, told.lists[0].weights, strict=True))


async def test_one_of_two_followers_applies_and_the_other_goes_on_once_that_is_silent(
    log: JetStreamLog, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "STANDBY_SECONDS", 60.0)
    repo, partition = empty_repository(folder / "a"), 3
    states = [LiveState(log, partition, 3600.0) for _ in range(2)]
    async with (
        following(follower_of(log, repo, partition, states[0])) as one,
        following(follower_of(log, repo, partition, states[1])) as other,
    ):
        # One that begins later would not find that the other one is ahead.
        await until(lambda: None not in [state._position for state in states])
        for viewer in ("v", "w"):
            last = await log.append(EVENTS, str(partition), message([event(viewer, "a")]))
            await counts(last, *states)
        ahead = states[1].counted == last
        await states[ahead].publish()
        monkeypatch.setattr(follow, "STANDBY_SECONDS", 0.5)
        await states[ahead].publish()  # the other one waits so long from here on
        [one, other][ahead].cancel()
        last = await log.append(EVENTS, str(partition), message([event("x", "a")]))
        await counts(last, states[not ahead])
        await states[not ahead].publish()
    assert await trending(log, partition) == pytest.approx({video_key("a"): 3}, rel=0.01)


async def test_features_that_catch_up_count_nothing_twice_and_all_that_is_new(
    log: JetStreamLog, folder: Path
) -> None:
    partition = 4
    counted = await log.append(EVENTS, str(partition), message([event("v", "a")]))
    state = LiveState(log, partition, 3600.0)
    async with following(follower_of(log, empty_repository(folder / "a"), partition, state)):
        await counts(counted, state)
    last = await log.append(EVENTS, str(partition), message([event("w", "a")]))
    # Both messages are read at once.
    async with following(follower_of(log, empty_repository(folder / "b"), partition, state)):
        await counts(last, state)
        await state.publish()
    assert await trending(log, partition) == pytest.approx({video_key("a"): 2}, rel=0.01)


async def delete_events(log: JetStreamLog) -> None:
    """Delete the stream: the next append makes another one."""
    assert log._connection is not None
    await log._connection.ask("$JS.API.STREAM.DELETE.vireo_events")


@pytest.mark.parametrize("while_it_is_followed", [False, True])
async def test_a_log_that_was_replaced_and_outgrew_the_position_is_applied_from_its_begin(
    log: JetStreamLog, folder: Path, while_it_is_followed: bool
) -> None:
    repo, partition = empty_repository(folder / "a"), 5
    rows = open_rows(repo, 5)

    async def append(count: int, name: str) -> int:
        for number in range(count):
            last = await log.append(
                EVENTS, str(partition), message([event("v", f"{name}-{number}", HIDE)])
            )
        return last

    async with following(follower_of(log, repo, partition)):
        last = await append(10, "old")
        await reached(rows, partition, last)
        if while_it_is_followed:
            await delete_events(log)
            await append(last + 10, "new")
            await reached(rows, partition, last + 10)
    if not while_it_is_followed:
        await delete_events(log)
        await append(last + 10, "new")
        async with following(follower_of(log, repo, partition)):
            await reached(rows, partition, last + 10)
    assert hidden(rows) >= {video_key(f"new-{number}") for number in range(last + 10)}
    rows.close()


async def test_the_position_moves_on_beyond_messages_of_other_partitions(
    log: JetStreamLog, folder: Path
) -> None:
    """Else what the log keeps of them no longer would seem to be missed."""
    repo, partition = empty_repository(folder / "a"), 6
    rows = open_rows(repo, 5)
    await log.append(EVENTS, str(partition), message([event("v", "a", HIDE)]))
    last = await log.append(EVENTS, "7", message([event("v", "b", HIDE)]))
    async with following(follower_of(log, repo, partition)):
        await reached(rows, partition, last)
    assert hidden(rows) == {video_key("a")}
    rows.close()
