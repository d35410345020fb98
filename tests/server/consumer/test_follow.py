"""Followers in one process with a real log and real online stores."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.builders.event_batches import empty_repository, message
from tests.builders.nats import RunningNats, settings_of
from tests.builders.reading import take
from tests.builders.redis import RunningRedis
from vireo.server.consumer.apply import Batch, apply, read_batch
from vireo.server.consumer.fold import Folded, ViewerRow
from vireo.server.consumer.follow import Follower, PositionMovedError, RebuiltError
from vireo.server.consumer.lease import LeaseLostError
from vireo.server.consumer.live_state import LiveState
from vireo.server.consumer.rows import OnlineRows
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import DEAD, EVENTS, STATE, Entry
from vireo.server.features import active_build
from vireo.server.features.active_build import active_key, series_of
from vireo.server.features.activity import EventRules
from vireo.server.features.keys import video_key
from vireo.training.features.online_store import OnlineStoreSettings
from vireo.v1 import event_pb2, log_pb2


@pytest.fixture
async def log(nats: RunningNats) -> AsyncIterator[JetStreamLog]:
    opened = JetStreamLog(settings_of(nats))
    yield opened
    await opened.close()


def hide(video: str) -> event_pb2.Event:
    made = event_pb2.Event(
        event_id=video, viewer_id="v", video_id=video, kind=event_pb2.EVENT_KIND_HIDE
    )
    made.time.FromSeconds(1_700_000_000)
    return made


def follower_of(
    log: JetStreamLog, repo: Path, partition: int, holder: str, state: LiveState | None = None
) -> Follower:
    state = state or LiveState(log, partition, 3600.0)
    return Follower(log, repo, partition, state, holder=holder, timeout=5)


@asynccontextmanager
async def following(follower: Follower) -> AsyncIterator[asyncio.Task[None]]:
    """A follower that runs, stopped in the end."""
    task = asyncio.create_task(follower.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def hidden(rows: OnlineRows) -> set[int]:
    """The videos that the viewer has hidden."""
    [row] = rows.read(["v"])
    assert isinstance(row, ViewerRow)
    return set(row.hidden_keys.tolist())


async def become(value: Callable[[], object], wanted: object) -> None:
    """Return once a value is as wanted."""
    async with asyncio.timeout(30):
        while value() != wanted:  # noqa: ASYNC110  # other processes' state
            await asyncio.sleep(0.01)


class Stall:
    """Stops the first write of rows, as a process that is stopped right before it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        write, first = OnlineRows.write, iter([True])

        def stalled(rows: OnlineRows, changes: Mapping[str, Folded]) -> None:
            if next(first, False):
                self.reached.set()
                self.go_on.wait(60)
            write(rows, changes)

        monkeypatch.setattr(OnlineRows, "write", stalled)


async def test_what_a_consumer_without_its_lease_writes_over_is_applied_again(
    redis: RunningRedis, log: JetStreamLog, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = OnlineStoreSettings(online_store="redis")
    repo = empty_repository(folder / "a", settings)
    rows, partition = OnlineRows(repo, timeout=5), 1
    stall = Stall(monkeypatch)
    await log.append(EVENTS, str(partition), message([hide("a")]))

    both = {video_key("a"), video_key("b")}
    async with following(follower_of(log, repo, partition, "here:1")) as slow:
        await asyncio.to_thread(stall.reached.wait, 30)
        rows.redis.delete(f"vireo:consumer:{rows.project}:{partition}")  # it expires
        other = follower_of(log, repo, partition, "here:2")
        last = await log.append(EVENTS, str(partition), message([hide("b")]))
        async with following(other) as quick:
            await become(lambda: rows.position(partition).sequence, last)
            assert hidden(rows) == both
            stall.go_on.set()
            with pytest.raises(PositionMovedError):
                await slow
            assert hidden(rows) == {video_key("a")}, "the stale row has been written"
            again = await log.append(EVENTS, str(partition), message([hide("c")]))
            with pytest.raises(PositionMovedError):
                await quick
    # What both processes do next.
    async with following(follower_of(log, repo, partition, "here:2")):
        await become(lambda: rows.position(partition).sequence, again)
    assert hidden(rows) == {*both, video_key("c")}
    rows.close()


async def test_rows_are_not_written_once_the_lease_is_lost(
    redis: RunningRedis, log: JetStreamLog, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = OnlineStoreSettings(online_store="redis")
    repo = empty_repository(folder / "a", settings)
    rows, partition = OnlineRows(repo, timeout=5), 2
    monkeypatch.setattr("vireo.server.consumer.lease.RENEW_SECONDS", 0.0)

    def taken(entries: Sequence[Entry], rules: EventRules) -> Batch:
        rows.redis.set(f"vireo:consumer:{rows.project}:{partition}", "another:1")
        return read_batch(entries, rules)

    monkeypatch.setattr("vireo.server.consumer.follow.read_batch", taken)
    await log.append(EVENTS, str(partition), message([hide("a")]))
    async with following(follower_of(log, repo, partition, "here:1")) as task:
        with pytest.raises(LeaseLostError):
            await asyncio.wait_for(task, 30)
    assert hidden(rows) == set()
    rows.close()


async def test_rows_are_not_written_to_a_build_that_another_replaced(
    redis: RunningRedis, log: JetStreamLog, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active_build, "TRUST_SECONDS", 0.0)
    repo = empty_repository(folder / "a", OnlineStoreSettings(online_store="redis"))
    rows, partition = OnlineRows(repo, timeout=5), 8
    first = await log.append(EVENTS, str(partition), message([hide("a")]))
    async with following(follower_of(log, repo, partition, "here:1")) as task:
        await become(lambda: rows.position(partition).sequence, first)
        # The folder is the one before, as NFS may show it to another node.
        rows.redis.set(active_key(series_of(rows.project)), "another")
        await log.append(EVENTS, str(partition), message([hide("b")]))
        with pytest.raises(RebuiltError):
            await asyncio.wait_for(task, 30)
    assert hidden(rows) == {video_key("a")}
    rows.close()


def play(video: str, viewer: str) -> event_pb2.Event:
    made = event_pb2.Event(
        event_id=video, viewer_id=viewer, video_id=video, kind=event_pb2.EVENT_KIND_PLAY
    )
    made.time.GetCurrentTime()
    return made


async def trending(log: JetStreamLog, partition: int) -> dict[int, float]:
    """The weights that were published last."""
    told = log_pb2.Trending()
    async for entries in log.read(STATE, f"trending.{partition}"):
        if not entries:
            break
        told.ParseFromString(entries[-1].data)
    return dict(zip(told.lists[0].keys, told.lists[0].weights, strict=True))


async def test_who_takes_over_goes_on_from_the_counts_of_the_one_before(
    log: JetStreamLog, folder: Path
) -> None:
    repo, partition = empty_repository(folder / "a"), 3
    rows = OnlineRows(repo, timeout=5)
    first, second = (LiveState(log, partition, 3600.0) for _ in range(2))
    before = follower_of(log, repo, partition, "here:1", first)
    async with following(before) as active:
        last = await log.append(EVENTS, str(partition), message([play("a", "v")]))
        await become(lambda: first.counted, last)
        standby = follower_of(log, repo, partition, "here:2", second)
        async with following(standby):
            last = await log.append(EVENTS, str(partition), message([play("a", "w")]))
            await become(lambda: first.counted, last)
            await first.publish()
            active.cancel()
            last = await log.append(EVENTS, str(partition), message([play("a", "x")]))
            await become(lambda: second.counted, last)
            await second.publish()
    rows.close()
    assert await trending(log, partition) == pytest.approx({video_key("a"): 3}, rel=0.01)


async def test_features_that_catch_up_count_nothing_twice_and_all_that_is_new(
    log: JetStreamLog, folder: Path
) -> None:
    partition = 4
    counted = await log.append(EVENTS, str(partition), message([play("a", "v")]))
    state = LiveState(log, partition, 3600.0)
    async with following(
        follower_of(log, empty_repository(folder / "a"), partition, "here:1", state)
    ):
        await become(lambda: state.counted, counted)
    last = await log.append(EVENTS, str(partition), message([play("a", "w")]))
    # Both messages are read at once.
    async with following(
        follower_of(log, empty_repository(folder / "b"), partition, "here:1", state)
    ):
        await become(lambda: state.counted, last)
        await state.publish()
    assert await trending(log, partition) == pytest.approx({video_key("a"): 2}, rel=0.01)


async def test_what_is_set_aside_at_the_same_position_later_is_kept_too(
    log: JetStreamLog, folder: Path
) -> None:
    """A log that lost its events begins with the same positions again."""
    follower = follower_of(log, empty_repository(folder / "a"), 3, "here:1")
    letters = [log_pb2.DeadEvents(recorded=each, position=1) for each in (b"a", b"b", b"a")]
    for letter in letters:
        await follower._set_aside(Batch(dead=[letter]))
    found = [log_pb2.DeadEvents.FromString(each.data) for each in await take(log, DEAD, "3")]
    assert found == letters[:2]


async def test_a_viewer_who_was_not_seen_for_long_is_deleted_while_events_are_followed(
    log: JetStreamLog, folder: Path
) -> None:
    repo, partition = empty_repository(folder / "a"), 9
    rows = OnlineRows(repo, timeout=5)
    batch = read_batch(
        [Entry(1, str(partition), message([hide("a")]))], EventRules(liked_fraction=0.8)
    )
    apply(rows, batch)
    with sqlite3.connect(repo / "online.db") as connection:
        connection.execute(f'UPDATE "{rows.project}_viewer_hidden" SET created_ts = 1')
    os.utime(repo / "feature_store.yaml", (1, 1))
    follower = Follower(
        log, repo, partition, LiveState(log, partition, 1.0), holder="h", timeout=5, expiry=1_000
    )
    async with following(follower):
        await become(lambda: hidden(rows), set())


async def delete_events(log: JetStreamLog) -> None:
    """Delete the stream: the next append makes another one."""
    assert log._connection is not None
    await log._connection.ask("$JS.API.STREAM.DELETE.vireo_events")


@pytest.mark.parametrize("while_it_is_followed", [False, True])
async def test_a_log_that_was_replaced_and_outgrew_the_position_is_applied_from_its_begin(
    log: JetStreamLog, folder: Path, while_it_is_followed: bool
) -> None:
    repo, partition = empty_repository(folder / "a"), 5
    rows = OnlineRows(repo, timeout=5)

    async def append(count: int, name: str) -> int:
        for number in range(count):
            last = await log.append(EVENTS, str(partition), message([hide(f"{name}-{number}")]))
        return last

    async with following(follower_of(log, repo, partition, "here:1")):
        last = await append(10, "old")
        await become(lambda: rows.position(partition).sequence, last)
        if while_it_is_followed:
            await delete_events(log)
            await append(last + 10, "new")
            await become(lambda: rows.position(partition).sequence, last + 10)
    if not while_it_is_followed:
        await delete_events(log)
        await append(last + 10, "new")
        async with following(follower_of(log, repo, partition, "here:1")):
            await become(lambda: rows.position(partition).sequence, last + 10)
    assert hidden(rows) >= {video_key(f"new-{number}") for number in range(last + 10)}
    rows.close()


async def test_the_position_moves_on_beyond_messages_of_other_partitions(
    log: JetStreamLog, folder: Path
) -> None:
    """Else what the log keeps of them no longer would seem to be missed."""
    repo, partition = empty_repository(folder / "a"), 6
    rows = OnlineRows(repo, timeout=5)
    await log.append(EVENTS, str(partition), message([hide("a")]))
    last = await log.append(EVENTS, "7", message([hide("b")]))
    async with following(follower_of(log, repo, partition, "here:1")):
        await become(lambda: rows.position(partition).sequence, last)
    assert hidden(rows) == {video_key("a")}
    rows.close()
