"""Batches of events applied to rows of real online stores."""

from __future__ import annotations

import os
import sqlite3
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.builders.datasets import random_interactions, write_small_dataset
from tests.builders.event_batches import (
    LIKED_BY_FRACTION,
    empty_repository,
    events_in_disorder,
    message,
    parts,
)
from tests.builders.redis import RunningRedis
from vireo.server.consumer.apply import Batch, apply, read_batch
from vireo.server.consumer.fold import ViewerRow
from vireo.server.consumer.lease import FileLease, RedisLease, holder_name, lease_of
from vireo.server.consumer.rows import OnlineRows, StoreAwayError
from vireo.server.errors import VireoError
from vireo.server.event_log.log import Entry
from vireo.server.event_log.position import BEGIN, Position
from vireo.server.features.keys import video_key
from vireo.server.home import Home
from vireo.training.features.build import build_features
from vireo.training.features.online import OnlineViewer, read_online
from vireo.training.features.online_store import OnlineStoreSettings
from vireo.v1 import event_pb2, log_pb2

VIEWERS = [f"w{number}" for number in range(42)]
YEAR = 365 * 86_400


def entries(*messages: list[event_pb2.Event]) -> list[Entry]:
    return [Entry(place, "0", message(events)) for place, events in enumerate(messages, start=1)]


def applied(rows: OnlineRows, *messages: list[event_pb2.Event]) -> Batch:
    batch = read_batch(entries(*messages), LIKED_BY_FRACTION)
    apply(rows, batch)
    return batch


def event(video: str, kind: Any = event_pb2.EVENT_KIND_PLAY, viewer: str = "v") -> event_pb2.Event:
    made = event_pb2.Event(event_id="e", viewer_id=viewer, video_id=video, kind=kind)
    made.time.FromSeconds(1_700_000_000)
    return made


def stored(rows: OnlineRows, viewers: list[str]) -> list[list[Any]]:
    found = rows.read(viewers)
    return [
        [np.asarray(getattr(row, each.name)).tolist() for each in fields(ViewerRow)]
        for row in found
    ]


def test_events_lead_to_the_online_rows_of_the_build_through_restarts(
    store: OnlineStoreSettings, tmp_path: Path, folder: Path
) -> None:
    interactions: pd.DataFrame = random_interactions()
    home = Home(tmp_path)
    write_small_dataset(home, "small", interactions)
    build_features(home, "small", holdout="none", settings=store)
    repo = empty_repository(folder / "replayed", store)
    for some in parts(events_in_disorder(interactions, 3), 150):
        rows = OnlineRows(repo, timeout=5)
        assert not applied(rows, list(some[:70]), list(some[70:])).dead
        rows.close()
    built, replayed = (OnlineRows(each, timeout=5) for each in (home.features("small"), repo))
    assert stored(replayed, VIEWERS) == stored(built, VIEWERS)
    for viewer in VIEWERS:
        one, other = read_online(home.features("small"), viewer), read_online(repo, viewer)
        assert (one.history_times, one.watched_keys) == (other.history_times, other.watched_keys)
        assert (one.hidden_keys, one.hidden_times) == (other.hidden_keys, other.hidden_times)
        assert one.viewer_like_count == other.viewer_like_count
    assert sum(bool(read_online(repo, viewer).hidden_keys) for viewer in VIEWERS) > 10


def test_the_position_is_kept_by_partition(store: OnlineStoreSettings, folder: Path) -> None:
    rows = OnlineRows(empty_repository(folder / "a", store), timeout=5)
    assert rows.position(0) == BEGIN
    rows.write_position(0, Position(5, "log", 5))
    rows.write_position(1, Position(7, "log", 7))
    rows.write_position(0, Position(6, "log", 6))
    assert (rows.position(0), rows.position(1)) == (Position(6, "log", 6), Position(7, "log", 7))


def age(repo: Path, viewers: str, seconds: float) -> None:
    """Make the features of some viewers, and their build, older."""
    with sqlite3.connect(repo / "online.db") as connection:
        for (table,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE name LIKE '%_viewer_%' AND type = 'table'"
        ).fetchall():
            connection.execute(
                f'UPDATE "{table}" SET created_ts = created_ts - ? '
                "WHERE instr(entity_key, CAST(? AS BLOB))",
                (seconds, viewers),
            )
    configuration = repo / "feature_store.yaml"
    built = configuration.stat().st_mtime - seconds
    os.utime(configuration, (built, built))


def test_viewers_who_were_not_seen_for_long_leave_sqlite_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vireo.server.consumer.rows.VIEWERS_AT_A_TIME", 7)
    home = Home(tmp_path)
    write_small_dataset(home, "small", random_interactions())
    build_features(home, "small", holdout="none")
    repo = home.features("small")
    rows = OnlineRows(repo, timeout=5)
    assert rows.expire(1_000) == b"", "they were built just now"
    applied(rows, *([event("a", viewer=viewer)] for viewer in ("w3", "old", "new")))
    rows.close()
    age(repo, "old", 2_000)
    rows = OnlineRows(repo, timeout=5)
    after, looks = rows.expire(1_000), 1
    while after:
        after, looks = rows.expire(1_000, after), looks + 1
    assert looks > 5
    assert read_online(repo, "w3").viewer_watch_count
    assert read_online(repo, "w3").attributes, "a viewer who was seen keeps the profile"
    assert read_online(repo, "new").viewer_watch_count == 1
    assert read_online(repo, "old") == read_online(repo, "w4") == OnlineViewer()
    assert rows.position(0) == BEGIN


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"])
def test_when_a_viewer_was_seen_is_the_same_in_every_time_zone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        repo = empty_repository(folder / "a")
        rows = OnlineRows(repo, timeout=5)
        applied(rows, [event("a", viewer="old"), event("a", viewer="new")])
        rows.close()
        age(repo, "old", 1_100)
        rows = OnlineRows(repo, timeout=5)
        assert rows.expire(1_000)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert read_online(repo, "old") == OnlineViewer()
    assert read_online(repo, "new").viewer_watch_count == 1


def test_a_viewer_who_is_seen_while_others_are_deleted_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = empty_repository(folder / "a")
    rows = OnlineRows(repo, timeout=5)
    hide = event("b", event_pb2.EVENT_KIND_HIDE, viewer="back")
    applied(rows, [event("a", viewer="old"), event("a", viewer="back"), hide])
    rows.close()
    age(repo, "", 2_000)
    rows, other = (OnlineRows(repo, timeout=5) for _ in range(2))
    delete = rows._delete

    def deleted(*arguments: Any) -> bool:
        applied(other, [event("a", viewer="back")])  # which changes nothing in the row
        return delete(*arguments)

    monkeypatch.setattr(rows, "_delete", deleted)
    assert rows.expire(1_000)
    assert read_online(repo, "old") == OnlineViewer()
    assert read_online(repo, "back").viewer_watch_count == 1
    assert read_online(repo, "back").hidden_keys == (video_key("b"),)


def test_viewers_who_were_not_seen_for_long_leave_redis(redis: RunningRedis, folder: Path) -> None:
    settings = OnlineStoreSettings(
        online_store="redis",
        viewer_expiry=YEAR,
    )
    home = Home(folder)
    write_small_dataset(home, "small", random_interactions())
    build_features(home, "small", holdout="none", settings=settings)
    rows = OnlineRows(home.features("small"), timeout=5)
    rows.write_position(0, Position(5))
    kept = {}
    for key in rows.redis.scan_iter(b"*" + rows.project.encode()):
        kept[key] = rows.redis.ttl(key)
        rows.redis.expire(key, 500)
    assert sorted({*kept.values()} - {YEAR - 1, YEAR}) == [-1], "the position alone stays for ever"
    assert len(kept) == 42
    rows.write_position(0, Position(6))
    applied(rows, [event("a", viewer="w3")])
    again = [rows.redis.ttl(key) for key in kept]
    assert sum(left > 900 for left in again) == 1, "an event makes a viewer's row new"
    assert again.count(-1) == 1
    assert rows.expire(1) == b""


def test_what_is_new_is_counted_once_for_what_is_trending(folder: Path) -> None:
    rows = OnlineRows(empty_repository(folder / "a"), timeout=5)
    like = event("b", event_pb2.EVENT_KIND_LIKE)
    like.locale = "de-CH"
    shown = event("c", event_pb2.EVENT_KIND_IMPRESSION)
    batch = applied(rows, [event("a"), event("a"), like, shown])
    assert len(batch.watched) == 3  # a watch of each, and a like
    assert {each.locale for each in batch.watched} == {"de-CH"}
    assert batch.shown == {("v", video_key(video)) for video in "abc"}
    assert batch.kinds == {"play": 2, "like": 1, "impression": 1}
    assert applied(rows, [event("a"), like]).watched == []


def test_an_event_that_cannot_be_applied_is_set_aside_alone(folder: Path) -> None:
    rows = OnlineRows(empty_repository(folder / "a"), timeout=5)
    bad = event("b")
    bad.ClearField("time")
    batch = read_batch(
        [Entry(4, "0", b"\xff\xff"), Entry(5, "0", message([event("a"), bad]))], LIKED_BY_FRACTION
    )
    apply(rows, batch)
    assert batch.position.sequence == 5
    [garbage, letter] = batch.dead
    assert (garbage.recorded, garbage.position) == (b"\xff\xff", 4)
    assert list(log_pb2.RecordedEvents.FromString(letter.recorded).events) == [bad]
    assert letter.position == 5
    assert "without a time" in letter.reason
    assert read_online(folder / "a", "v").viewer_watch_count == 1


@pytest.mark.parametrize(("seconds", "nanos"), [(2**60, 0), (-5, 0), (1, -1), (1, 10**9)])
def test_an_impossible_time_takes_no_other_event_along(
    folder: Path, seconds: int, nanos: int
) -> None:
    rows = OnlineRows(empty_repository(folder / "a"), timeout=5)
    bad = event("b")
    bad.time.seconds, bad.time.nanos = seconds, nanos
    batch = applied(rows, [event("a"), bad])
    [letter] = batch.dead
    assert list(log_pb2.RecordedEvents.FromString(letter.recorded).events) == [bad]
    assert read_online(folder / "a", "v").viewer_watch_count == 1


def test_what_is_set_aside_fits_into_the_log() -> None:
    garbage = read_batch([Entry(1, "0", b"\xff" * (1 << 20))], LIKED_BY_FRACTION)
    assert 1 << 18 < garbage.dead[0].ByteSize() < 1 << 20
    long = [event(f"{number:0128}") for number in range(1_000)]
    batch = read_batch(entries(long), LIKED_BY_FRACTION)
    batch.set_viewer_aside("v", "no " * 10_000)
    assert len(batch.dead) == 2
    assert all(letter.ByteSize() < 1 << 20 for letter in batch.dead)


@pytest.mark.parametrize("value", [b"", b"\xff\xff\xff"])
def test_a_row_that_is_garbage_sets_its_viewers_events_aside_alone(
    folder: Path, value: bytes
) -> None:
    repo = empty_repository(folder / "a")
    rows = OnlineRows(repo, timeout=5)
    applied(rows, [event("a", viewer="bad"), event("a", viewer="good")])
    with sqlite3.connect(repo / "online.db") as connection:
        connection.execute(
            f'UPDATE "{rows.project}_viewer_activity" SET value = ? '
            "WHERE feature_name = 'watched_times' AND instr(entity_key, CAST('bad' AS BLOB))",
            (value,),
        )
    batch = applied(rows, [event("b", viewer="bad"), event("b", viewer="good")])
    [letter] = batch.dead
    assert "viewer 'bad'" in letter.reason
    assert batch.kinds["play"] == 1
    assert read_online(repo, "good").viewer_watch_count == 2


def test_a_store_that_is_away_is_said_to_be(redis: RunningRedis, folder: Path) -> None:
    settings = OnlineStoreSettings(online_store="redis")
    rows = OnlineRows(empty_repository(folder / "a", settings), timeout=0.3)
    redis.hang()
    try:
        with pytest.raises(StoreAwayError):
            applied(rows, [event("a")])
    finally:
        redis.go_on()
    sqlite = OnlineRows(empty_repository(folder / "b"), timeout=0.1)
    with sqlite3.connect(folder / "b" / "online.db") as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreAwayError, match="locked"):
            applied(sqlite, [event("a")])
    assert not applied(sqlite, [event("a")]).dead


def test_gateways_can_read_while_rows_are_written(folder: Path) -> None:
    repo = empty_repository(folder / "a")
    rows = OnlineRows(repo, timeout=5)
    applied(rows, [event("a")])
    writer = sqlite3.connect(repo / "online.db")
    writer.execute("BEGIN IMMEDIATE")
    with sqlite3.connect(repo / "online.db", timeout=0) as reader:
        table = f"{rows.project}_viewer_activity"
        [(count,)] = reader.execute(f'SELECT count(*) FROM "{table}"')
    assert count == 6
    writer.rollback()


def test_features_of_an_earlier_build_are_refused(folder: Path) -> None:
    with pytest.raises(VireoError, match=r"there are no features in .*vireo features build none"):
        OnlineRows(folder / "none", timeout=5)


def test_one_consumer_at_a_time_has_the_lease(store: OnlineStoreSettings, folder: Path) -> None:
    repo = empty_repository(folder / "a", store)
    rows, others = OnlineRows(repo, timeout=5), OnlineRows(repo, timeout=5)
    lease, other = lease_of(rows, 0, "here:1"), lease_of(others, 0, "here:2")
    assert lease.hold()
    assert lease.hold()
    assert not other.hold()
    assert lease_of(others, 1, "here:2").hold()
    lease.release()
    assert other.hold()
    assert not lease.hold()


def test_a_lease_that_was_lost_is_noticed_when_it_is_renewed(
    redis: RunningRedis, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = OnlineStoreSettings(online_store="redis")
    rows = OnlineRows(empty_repository(folder / "a", settings), timeout=5)
    lease = lease_of(rows, 0, "here:1")
    assert isinstance(lease, RedisLease)
    assert lease.hold()
    rows.redis.set(f"vireo:consumer:{rows.project}:0", "another:1")
    monkeypatch.setattr("vireo.server.consumer.lease.RENEW_SECONDS", 0.0)
    assert not lease.hold()
    # A process that was killed has its lease back at once: it has the same name.
    assert lease_of(rows, 0, "another:1").hold()


def test_a_process_has_its_name_again_after_a_restart_and_no_other_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = holder_name(8160)
    assert holder_name(8160) == here
    assert holder_name(8161) != here
    assert holder_name(0) != holder_name(0), "any port: it isn't the same after a restart"
    read_text = Path.read_text
    # Another machine, whatever its name.
    monkeypatch.setattr(Path, "read_text", lambda path: read_text(path) + "2")
    assert holder_name(8160) != here


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    lease = FileLease(tmp_path / "lock")
    assert lease.hold()
    assert not FileLease(tmp_path / "lock").hold()
    lease.release()
    assert FileLease(tmp_path / "lock").hold()
