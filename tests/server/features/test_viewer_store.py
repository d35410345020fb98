"""Viewers' rows in real online stores."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.builders.datasets import random_interactions, write_small_dataset
from tests.builders.event_batches import empty_repository
from tests.builders.redis import RunningRedis
from vireo.server.event_log.log import BEGIN, Position
from vireo.server.features.online_store import open_rows, read_viewer
from vireo.server.features.redis_store import RedisStore
from vireo.server.features.viewer_rows import Change, ViewerRow
from vireo.server.features.viewer_store import (
    PositionMovedError,
    RebuiltError,
    StoreAwayError,
    active_key,
    series_of,
)
from vireo.server.gateway.features import FeatureReader
from vireo.server.home import Home
from vireo.training.features.build import build_features
from vireo.training.features.online_store import OnlineStoreSettings
from vireo.v1.viewer_pb2 import ViewerFeatures

YEAR = 365 * 86_400


def watched(*keys: int) -> Change:
    """A row of a viewer who watched these videos."""
    times = {key: at * 1_000_000 for at, key in enumerate(keys, start=1)}
    return Change(ViewerRow(times, watches=len(keys)))


def following(*keys: int) -> Change:
    """A row of a viewer who follows these creators."""
    return Change(ViewerRow(followed={key: at for at, key in enumerate(keys)}))


def hidden(*keys: int) -> Change:
    """A row of a viewer who hid these videos."""
    return Change(ViewerRow(hides={key: at for at, key in enumerate(keys)}))


class Consumers(RuleBasedStateMachine):
    """Two consumers of a partition, each of which may stop or die at any moment.

    Event n of the log is that a viewer watches video n; a row is the list of them. A log that is
    replaced begins anew, and so do its consumers, from whatever position is stored.
    """

    open_store: Any = None
    """Opens the store; set by the test."""

    def __init__(self) -> None:
        """Start with an empty store and an empty log."""
        super().__init__()
        self.rows = [self.open_store() for _ in range(2)]
        self.read: list[tuple[Position, Position, Mapping[str, Change]] | None] = [None, None]
        """What each consumer has read and folded, and not written yet."""
        self.log, self.end = "log-0", 0
        self.logged: dict[str, list[int]] = {"v": [], "w": []}
        self.rows[0].commit(0, self.rows[0].position(0), BEGIN, {}, ["v", "w"])

    @rule(viewer=st.sampled_from(["v", "w"]))
    def record(self, viewer: str) -> None:
        """A viewer watches another video."""
        self.end += 1
        self.logged[viewer].append(self.end)

    @rule()
    def replace_log(self) -> None:
        """The log loses all; its rows are erased with it, so that they can be compared."""
        self.log, self.end = f"log-{int(self.log[4:]) + 1}", 0
        self.logged = {"v": [], "w": []}

    @rule(who=st.sampled_from([0, 1]), count=st.integers(1, 3))
    def prepare(self, who: int, count: int) -> None:
        """A consumer reads its position, events, and rows."""
        rows = self.rows[who]
        before = rows.position(0)
        begin = before.sequence if before.log == self.log else 0
        last = min(self.end, begin + count)
        changes: dict[str, Change] = {}
        for viewer, row in zip(self.logged, rows.read([*self.logged]), strict=True):
            assert isinstance(row, ViewerRow)
            known = [*row.watched] if begin else []
            new = [each for each in self.logged[viewer] if begin < each <= last]
            changes[viewer] = watched(*known, *new)
        self.read[who] = before, Position(last, self.log), changes

    @rule(who=st.sampled_from([0, 1]))
    def commit(self, who: int) -> None:
        """A consumer writes what it has prepared, however long ago."""
        if (prepared := self.read[who]) is not None:
            before, after, changes = prepared
            moved = self.rows[1 - who].position(0) != before
            try:
                self.rows[who].commit(0, before, after, changes)
                assert not moved
            except PositionMovedError:
                assert moved
        self.read[who] = None

    @rule(who=st.sampled_from([0, 1]))
    def die(self, who: int) -> None:
        """A consumer is killed, and starts anew."""
        self.rows[who].close()
        self.rows[who], self.read[who] = self.open_store(), None

    @invariant()
    def rows_have_each_event_up_to_the_position_once(self) -> None:
        """Also while the other one has prepared something else."""
        position = self.rows[0].position(0)
        assert self.rows[0].position(1) == BEGIN, "that of another partition"
        if position.log == self.log:
            for viewer, row in zip(self.logged, self.rows[1].read([*self.logged]), strict=True):
                assert isinstance(row, ViewerRow)
                known = [each for each in self.logged[viewer] if each <= position.sequence]
                assert [*row.watched] == known

    def teardown(self) -> None:
        """Close the store."""
        for rows in self.rows:
            rows.close()


def test_no_event_is_lost_or_counted_twice_whatever_becomes_of_two_consumers(
    store: OnlineStoreSettings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = empty_repository(folder / "a", store)
    monkeypatch.setattr(Consumers, "open_store", staticmethod(lambda: open_rows(repo, 5)))
    run_state_machine_as_test(
        Consumers,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[*HealthCheck],
        ),
    )


def test_rows_are_not_written_to_a_build_that_another_replaced(
    redis: RunningRedis, folder: Path
) -> None:
    repo = empty_repository(folder / "a", OnlineStoreSettings(online_store="redis"))
    rows, unannounced = open_rows(repo, 5), open_rows(repo, 5, announced=False)
    rows.commit(0, BEGIN, Position(1), {"v": watched(1)})
    assert isinstance(rows, RedisStore)
    # The folder is the one before, as NFS may show it to another node.
    rows.redis.set(active_key(series_of(rows.project)), "another")
    assert rows.superseded()
    with pytest.raises(RebuiltError):
        rows.commit(0, Position(1), Position(2), {"v": watched(1, 2)})
    assert list(rows.features("v").watched_keys) == [1]
    assert open_rows(repo, 5).project == "another"
    # A build's own rows, before it is announced.
    unannounced.commit(0, Position(1), Position(2), {"v": watched(1, 2)})
    assert list(rows.features("v").watched_keys) == [1, 2]


def test_all_who_have_hidden_a_video_or_follow_someone_are_found(
    store: OnlineStoreSettings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vireo.server.features.viewer_store.VIEWERS_AT_A_TIME", 2)
    rows = open_rows(empty_repository(folder / "a", store), 5)
    names = [f"viewer-{number}-ü" for number in range(5)]
    rows.write({name: hidden(number) for number, name in enumerate(names)})
    rows.write({"watcher": watched(1), "fan": following(7)})
    assert {viewer: row.hides or row.followed for viewer, row in rows.kept()} == {
        name: {number: 0} for number, name in enumerate(names)
    } | {"fan": {7: 0}}


async def test_features_of_an_earlier_build_have_no_impressions_until_a_consumer_writes(
    folder: Path,
) -> None:
    repo = empty_repository(folder / "a")
    rows = open_rows(repo, 5)
    rows.write({"v": watched(1)})
    rows.close()
    with sqlite3.connect(repo / "online.db") as connection:
        for view in ("viewer_shown", "viewer_followed"):
            connection.execute(f'DROP TABLE "{rows.project}_{view}"')
    gateway = FeatureReader(repo, 5)
    before = await gateway.read("v", 5)
    assert before.watched_keys == [1]
    assert before.shown_keys == []
    rows = open_rows(repo, 5)
    assert rows.read(["v"]) == [watched(1).row]
    rows.commit(0, BEGIN, Position(1), {"v": Change(ViewerRow(shown=((1, 2), (60, 120))))})
    after = await gateway.read("v", 5)
    assert after.shown_keys == [1, 2]
    assert after.shown_times == [60, 120]
    assert rows.erase(["v"])
    assert await gateway.read("v", 5) == ViewerFeatures()


def test_what_is_stored_of_a_viewer_is_read_again(store: OnlineStoreSettings, folder: Path) -> None:
    rows = open_rows(empty_repository(folder / "a", store), 5)
    row = ViewerRow({5: 1_000_000}, frozenset([5]), 3, 1, {6: 2}, ((7, 8), (60, 120)), {9: 3})
    rows.write({"v": Change(row)})
    assert rows.read(["v", "w"]) == [row, ViewerRow()]
    assert rows.read(["v"], ["viewer_shown"]) == [ViewerRow(shown=row.shown)]
    found = rows.features("v")
    assert found.shown_keys == [7, 8]
    assert found.shown_times == [60, 120]
    assert found.followed_keys == [9]


def test_viewers_who_were_not_seen_for_long_leave_redis(redis: RunningRedis, folder: Path) -> None:
    settings = OnlineStoreSettings(online_store="redis", viewer_expiry=YEAR)
    home = Home(folder)
    write_small_dataset(home, "small", random_interactions())
    build_features(home, "small", holdout="none", settings=settings)
    rows = open_rows(home.features("small"), 5)
    assert isinstance(rows, RedisStore)
    rows.commit(0, BEGIN, Position(5), {})
    kept = {}
    for key in rows.redis.scan_iter(b"*" + rows.project.encode()):
        kept[key] = rows.redis.ttl(key)
        rows.redis.expire(key, 500, xx=True)
    assert sorted({*kept.values()} - {YEAR - 1, YEAR}) == [-1], "the position alone stays for ever"
    assert len(kept) == 42
    rows.commit(0, Position(5), Position(6), {"w3": watched(1)})
    again = [rows.redis.ttl(key) for key in kept]
    assert sum(left > 900 for left in again) == 1, "an event makes a viewer's row new"
    assert again.count(-1) == 1
    assert read_viewer(rows.repo, "w4").watch_count


def test_a_store_that_is_away_is_said_to_be(redis: RunningRedis, folder: Path) -> None:
    rows = open_rows(
        empty_repository(folder / "a", OnlineStoreSettings(online_store="redis")), timeout=0.3
    )
    redis.hang()
    try:
        with pytest.raises(StoreAwayError):
            rows.commit(0, BEGIN, Position(1), {})
    finally:
        redis.go_on()
    rows.commit(0, BEGIN, Position(1), {})
    sqlite = open_rows(empty_repository(folder / "b"), timeout=0.1)
    with sqlite3.connect(folder / "b" / "online.db") as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreAwayError, match="locked"):
            sqlite.commit(0, BEGIN, Position(1), {})
    sqlite.commit(0, BEGIN, Position(1), {})


async def test_a_connection_that_redis_ends_in_mid_read_costs_a_slate_no_features(
    redis: RunningRedis, folder: Path
) -> None:
    rows = open_rows(
        empty_repository(folder / "a", OnlineStoreSettings(online_store="redis")), timeout=20
    )
    assert isinstance(rows, RedisStore)
    rows.commit(0, BEGIN, Position(1), {"v": watched(7)})
    before = await rows.fetch_served("v", 20)
    with socket.create_connection(("127.0.0.1", redis.port)) as admin:
        admin.sendall(b"CLIENT ID\r\n")
        assert admin.recv(99)
        redis.hang()
        # It comes to the server before the read does, and so ends the connection of that.
        admin.sendall(b"CLIENT KILL TYPE normal SKIPME yes\r\n")
        reading = asyncio.create_task(rows.fetch_served("v", 20))
        await asyncio.sleep(0.2)
        redis.go_on()
        assert await reading == before
        assert int(admin.recv(99)[1:]) >= 1, "no connection was ended"


def test_gateways_can_read_while_rows_are_written(folder: Path) -> None:
    repo = empty_repository(folder / "a")
    rows = open_rows(repo, 5)
    rows.write({"v": watched(1)})
    writer = sqlite3.connect(repo / "online.db")
    writer.execute("BEGIN IMMEDIATE")
    with sqlite3.connect(repo / "online.db", timeout=0) as reader:
        table = f"{rows.project}_viewer_activity"
        [(count,)] = reader.execute(f'SELECT count(*) FROM "{table}"')
    assert count == 6
    writer.rollback()
