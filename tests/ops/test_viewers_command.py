"""`vireo viewers erase` with a real log, real online stores and a follower."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from tests.builders.commands import reaching, vireo
from tests.builders.datasets import random_interactions, write_small_dataset
from tests.builders.event_batches import message
from tests.builders.nats import RunningNats, running_nats, settings_of
from tests.builders.nats import with_log as with_log_of
from tests.builders.recording import play
from tests.builders.shared_servers import redis, redis_server, store
from vireo.ops.cli import viewers
from vireo.ops.cli.__main__ import app
from vireo.ops.cli.events import dead_letters, mark_replayed
from vireo.server.consumer.follow import Follower
from vireo.server.consumer.live_state import LiveState
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import ARCHIVED, DEAD, EVENTS, STATE, Position, partition_of
from vireo.server.features.keys import video_key
from vireo.server.features.online_store import open_rows, read_viewer
from vireo.server.home import Home
from vireo.training.data.dataset import describe_dataset, load_dataset
from vireo.training.data.from_events import data_from_events
from vireo.training.features.build import build_features
from vireo.training.features.online_store import OnlineStoreSettings
from vireo.v1 import event_pb2
from vireo.v1.log_pb2 import ConsumerProgress, DeadEvents, RecordedEvents
from vireo.v1.viewer_pb2 import ViewerFeatures

__all__ = ["redis", "redis_server", "store"]

pytestmark = pytest.mark.usefixtures("logs_of_a_command")

VIEWER, OTHER, PARTITIONS = "w1", "w2", 2
OWN = partition_of(VIEWER, PARTITIONS)
with_log = partial(with_log_of, event_partitions=PARTITIONS)


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[RunningNats]:
    """A log of its own for each test, since erasures stay in it."""
    with running_nats(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr("vireo.ops.cli.viewers._CONSUMER_SECONDS", 0.2)
    home = Home(tmp_path / "home")
    write_small_dataset(home, "small", random_interactions())
    return home


def environment(home: Home, nats: RunningNats | None) -> dict[str, str]:
    return {
        "VIREO_HOME": str(home.root),
        **(reaching(nats) if nats else {"VIREO_NATS_URL": ""}),
        "VIREO_EVENT_PARTITIONS": str(PARTITIONS),
    }


def erase(home: Home, nats: RunningNats | None, *more: str, viewer: str = VIEWER) -> Result:
    return vireo("viewers", "erase", viewer, "--yes", *more, **environment(home, nats))


def opened(nats: RunningNats) -> JetStreamLog:
    return JetStreamLog(settings_of(nats, event_partitions=PARTITIONS))


def event(viewer: str, video: str, number: int = 0, **more: Any) -> event_pb2.Event:
    made: event_pb2.Event = play(f"{video}-{number}", viewer, video, **more)
    made.time.FromSeconds(1_800_000_000 + number)
    return made


def record(nats: RunningNats, *events: event_pb2.Event) -> None:

    async def append(log: JetStreamLog) -> None:
        for each in events:
            await log.append(EVENTS, str(partition_of(each.viewer_id, PARTITIONS)), message([each]))

    with_log(nats, append)


def follow(nats: RunningNats, repo: Path) -> None:
    """Apply all that both partitions have."""

    async def run(log: JetStreamLog) -> None:
        rows = open_rows(repo, 5)
        for partition in range(PARTITIONS):
            end = await log.end(EVENTS, str(partition))
            state = LiveState(log, partition, 3600.0)
            follower = Follower(log, repo, partition, state, timeout=5)
            task = asyncio.create_task(follower.run())
            async with asyncio.timeout(30):
                while rows.position(partition).sequence < end and not task.done():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        rows.close()

    with_log(nats, run)


def as_text(path: Path) -> bytes:
    return b"".join(each.read_bytes() for each in sorted(path.rglob("*")) if each.is_file())


def test_a_viewer_is_gone_from_the_store_the_data_and_all_later_builds(
    nats: RunningNats,
    home: Home,
    store: OnlineStoreSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment(home, nats).items():
        monkeypatch.setenv(name, value)
    build_features(home, "small", "none", settings=store)
    repo = home.features("small")
    before = read_viewer(repo, OTHER)
    assert read_viewer(repo, VIEWER).watched_keys
    assert read_viewer(repo, VIEWER).attributes
    record(nats, event(VIEWER, "v50"), event(OTHER, "v51"))
    record(
        nats,
        event(VIEWER, "v55", 1, kind=event_pb2.EVENT_KIND_IMPRESSION),
        event(VIEWER, "", 2, kind=event_pb2.EVENT_KIND_FOLLOW, creator="c"),
    )
    follow(nats, repo)
    assert read_viewer(repo, VIEWER).shown_keys[-1] == video_key("v55")
    assert read_viewer(repo, VIEWER).followed_keys == [video_key("c")]
    record(nats, event(VIEWER, "v52", kind=event_pb2.EVENT_KIND_HIDE))  # the consumer is behind
    done = erase(home, nats)
    assert done.exit_code == 0, done.output
    assert f"{repo}: removed from the online store" in done.output
    assert "no consumer came to it" in done.output
    assert "what remains" in done.output
    follow(nats, repo)
    assert read_viewer(repo, VIEWER) == ViewerFeatures()
    # Data set and description agree, and others are as they were.
    info, data = describe_dataset(home, "small"), load_dataset(home, "small")
    assert (info.interactions, info.viewers) == (len(data.interactions), len(data.viewers))
    assert sum(info.events.values()) == info.interactions
    for frame in (data.interactions, data.viewers):
        assert VIEWER not in set(frame["viewer_id"])
        assert OTHER in set(frame["viewer_id"])
    for table in ("viewer_activity", "viewer_hidden", "viewer_shown", "viewer_profile", "watches"):
        assert VIEWER not in set(pd.read_parquet(repo / f"{table}.parquet")["viewer_id"])
    assert len(read_viewer(repo, OTHER).watched_keys) == len(before.watched_keys) + 1
    # Features that are built again, and data that is made of the log.
    build_features(home, "small", "none", settings=store)
    assert read_viewer(repo, VIEWER) == ViewerFeatures()
    log = opened(nats)
    data_from_events(home, "live", "small", log, PARTITIONS)
    live = load_dataset(home, "live")
    assert VIEWER not in {*live.interactions["viewer_id"], *live.viewers["viewer_id"]}
    # Who comes back counts anew.
    record(nats, event(VIEWER, "v53", 9))
    follow(nats, repo)
    again = read_viewer(repo, VIEWER)
    assert again.watch_count == 1
    assert not again.attributes
    assert not again.hidden_keys
    log = opened(nats)
    data_from_events(home, "live", "live", log, PARTITIONS, force=True)
    live = load_dataset(home, "live")
    own = live.interactions[live.interactions["viewer_id"] == VIEWER]
    assert own["video_id"].tolist() == ["v53"]
    profile = live.viewers.set_index("viewer_id")["attributes"]
    assert list(profile[VIEWER]) == []


def test_a_data_set_elsewhere_loses_the_viewer_with_its_next_build(
    nats: RunningNats, home: Home
) -> None:
    elsewhere = Home(home.root.parent / "elsewhere")
    write_small_dataset(elsewhere, "small", random_interactions())
    record(nats, event(VIEWER, "v50", 20), event(VIEWER, "v50", 21))
    assert erase(home, nats).exit_code == 0
    record(nats, event(VIEWER, "v50", 20))  # sent again with the same id, but later
    log = opened(nats)
    info = data_from_events(elsewhere, "live", "small", log, PARTITIONS)
    own = load_dataset(elsewhere, "live").interactions.query("viewer_id == @VIEWER")
    assert len(own) == 1
    assert info.problems["events of viewers who were erased left out"] >= 2


def test_a_message_read_with_the_events_before_and_after_it_leaves_the_later_ones(
    nats: RunningNats, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_features(home, "small", "none")
    repo = home.features("small")

    async def append(log: JetStreamLog) -> None:
        bad = event(VIEWER, "v1", 3)
        bad.ClearField("time")
        marker = RecordedEvents(erased=[VIEWER])
        late = event(VIEWER, "v54", 5)
        for data in (
            message([event(VIEWER, "v50"), bad]),
            marker.SerializeToString(),
            message([late]),
        ):
            await log.append(EVENTS, str(OWN), data)

    with_log(nats, append)
    dead = with_log(nats, lambda log: log.end(DEAD))
    follow(nats, repo)
    row = read_viewer(repo, VIEWER)
    assert row.watch_count == 1
    assert not row.attributes
    assert with_log(nats, lambda log: log.end(DEAD)) == dead


def test_what_was_set_aside_of_the_viewer_is_deleted_alone(nats: RunningNats, home: Home) -> None:
    letters = [
        DeadEvents(recorded=message([event(viewer, "v1")]), reason="a reason", position=1)
        for viewer in (OTHER, VIEWER, OTHER)
    ]

    async def set_aside(log: JetStreamLog) -> None:
        for letter in letters[:2]:
            await log.append(DEAD, str(OWN), letter.SerializeToString())
        await mark_replayed(log, await dead_letters(log, [str(OWN)]))
        await log.append(DEAD, str(OWN), letters[2].SerializeToString())

    with_log(nats, set_aside)
    done = erase(home, nats)
    assert "1 messages of events that had been set aside deleted" in done.output
    left = with_log(nats, lambda log: dead_letters(log, [str(OWN)]))
    assert [letter.content for letter in left] == [letters[0], letters[2]]
    assert [letter.replayed for letter in left] == [True, False]
    assert "deleted" not in erase(home, nats).output


def test_without_a_log_the_home_is_cleaned_and_nothing_of_the_id_is_left(home: Home) -> None:
    alone = random_interactions()
    alone.loc[alone["viewer_id"] == VIEWER, "viewer_id"] = "nobody-else"
    write_small_dataset(home, "small", alone)
    build_features(home, "small", "none")
    assert b"nobody-else" in as_text(home.root)
    done = erase(home, None, viewer="nobody-else")
    assert done.exit_code == 0, done.output
    assert "log: there is none" in done.output
    with sqlite3.connect(home.features("small") / "online.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert b"nobody-else" not in as_text(home.root)


def test_a_log_that_is_away_stops_it_before_files_are_changed(home: Home, closed_port: int) -> None:
    before = describe_dataset(home, "small")
    variables = environment(home, None) | {"VIREO_NATS_URL": f"nats://127.0.0.1:{closed_port}"}
    failed = vireo("viewers", "erase", VIEWER, "--yes", **variables)
    assert "repeat this" in str(failed.exception)
    assert describe_dataset(home, "small") == before


def test_it_asks_first_and_may_be_for_some_data_sets_alone(home: Home) -> None:
    write_small_dataset(home, "other", random_interactions())
    for kind in ("data", "features", "runs"):
        (home.root / kind / "lost+found").mkdir(parents=True)
    runner = CliRunner(env=environment(home, None))
    assert runner.invoke(app, ["viewers", "erase", VIEWER], input="n\n").exit_code == 1
    assert VIEWER in set(load_dataset(home, "other").viewers["viewer_id"])
    assert erase(home, None, "--data", "other").exit_code == 0
    assert VIEWER not in set(load_dataset(home, "other").viewers["viewer_id"])
    assert VIEWER in set(load_dataset(home, "small").viewers["viewer_id"])


def test_a_data_set_of_one_viewer_is_not_emptied(home: Home) -> None:
    write_small_dataset(home, "alone", random_interactions().query("viewer_id == @VIEWER"))
    before = describe_dataset(home, "alone")
    failed = erase(home, None, "--data", "alone")
    assert "delete it with: vireo data rm --data alone" in str(failed.exception)
    assert describe_dataset(home, "alone") == before


def test_progress_in_a_log_that_was_replaced_says_nothing_of_an_erasure(
    nats: RunningNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewers, "_CONSUMER_SECONDS", 1.0)
    told, ours = (ConsumerProgress(partition=OWN, position=each) for each in (5_000, 7))

    async def passed(log: JetStreamLog, *, alive: bool) -> bool:
        await log.append(STATE, f"progress.{OWN}", told.SerializeToString())
        waiting = asyncio.create_task(viewers._passed(log, OWN, 7))
        await asyncio.sleep(0.3)
        if alive:
            await log.append(STATE, f"progress.{OWN}", ours.SerializeToString())
        return await waiting

    assert not with_log(nats, partial(passed, alive=False))
    assert with_log(nats, partial(passed, alive=True))


@pytest.mark.parametrize(
    ("archived", "said"),
    [
        ("same", "archive: rewritten without it"),
        ("replaced", "the archive isn't rewritten within"),
        ("before", "the archive isn't rewritten within"),
        ("", ""),
    ],
)
def test_it_says_whether_the_archive_was_rewritten_if_there_is_one(
    nats: RunningNats, home: Home, archived: str, said: str
) -> None:
    record(nats, event(VIEWER, "v50"))

    async def archive(log: JetStreamLog) -> None:
        created = (await log.describe(EVENTS))["created"]
        position = {
            "same": Position(100, created),
            "replaced": Position(100, "another"),
            "before": Position(1, created),
        }[archived]
        await log.append(STATE, f"{ARCHIVED}events.{OWN}", str(position).encode())

    if archived:
        with_log(nats, archive)
    tried = erase(home, nats, "--dry-run").output
    assert ("would erase it from the archive" in tried) == bool(archived)
    done = erase(home, nats)
    assert (done.exit_code == 0) == (archived in ("", "same")), done.output
    if said:
        assert said in f"{done.output}{done.exception}"
    else:
        assert "\narchive:" not in done.output


def test_what_it_cannot_erase_from_keeps_it_from_nothing_else(
    nats: RunningNats, home: Home
) -> None:
    interactions = random_interactions()
    write_small_dataset(home, "alone", interactions.query("viewer_id == @VIEWER"))
    for name in ("alone", "small"):
        build_features(home, name, "none")
    repo = home.features("aged")
    shutil.copytree(home.features("small"), repo)
    (repo / "feature_store.yaml").write_text("project: [")
    write_small_dataset(home, "aged", interactions)
    (home.data("aged") / "dataset.json").write_text('{"log_position": 7}')
    (home.features("alone") / "watches.parquet").write_bytes(b"")
    draft = home.root / "features" / ".small.draft.1"
    shutil.copytree(home.features("small"), draft)
    end = with_log(nats, lambda log: log.end(EVENTS, str(OWN)))
    failed = erase(home, nats)
    aged = home.data("aged") / "dataset.json"
    for each in (repo, aged, "data rm --data alone", "watches.parquet"):
        assert str(each) in str(failed.exception)
    assert with_log(nats, lambda log: log.end(EVENTS, str(OWN))) == end + 1
    assert "log: erased at position" in failed.output
    assert "repeat this when builds" in failed.output
    assert VIEWER not in set(load_dataset(home, "small").viewers["viewer_id"])
    assert read_viewer(home.features("small"), VIEWER) == ViewerFeatures()
    for table in repo.glob("viewer_*.parquet"):
        assert VIEWER not in set(pd.read_parquet(table)["viewer_id"])
    assert not draft.exists()


@pytest.mark.parametrize("viewer", ["", "v" * 129])
def test_what_is_no_viewers_id_is_not_recorded_in_the_log(
    home: Home, nats: RunningNats, viewer: str
) -> None:
    """Each later backup would fail to store its tombstone."""
    done = erase(home, nats, viewer=viewer)
    assert "is no viewer's id" in str(done.exception)
    assert with_log(nats, lambda log: log.end(EVENTS)) == 0
