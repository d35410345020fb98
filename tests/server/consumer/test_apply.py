"""Batches of events applied to rows of real online stores."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pandas as pd
import pytest

from tests.builders.datasets import random_interactions, write_small_dataset
from tests.builders.event_batches import (
    LIKE,
    LIKED_BY_FRACTION,
    empty_repository,
    event,
    events_in_disorder,
    message,
    parts,
)
from vireo.server.consumer.apply import Batch, folded, read_batch
from vireo.server.event_log.log import Entry
from vireo.server.features.keys import video_key
from vireo.server.features.online_store import open_rows, read_viewer
from vireo.server.features.viewer_store import ViewerStore
from vireo.server.home import Home
from vireo.training.features.build import build_features
from vireo.training.features.online_store import OnlineStoreSettings
from vireo.v1 import event_pb2, log_pb2

VIEWERS = [f"w{number}" for number in range(42)]


def entries(*messages: list[event_pb2.Event]) -> list[Entry]:
    return [Entry(place, "0", message(events)) for place, events in enumerate(messages, start=1)]


def applied(rows: ViewerStore, *messages: list[event_pb2.Event]) -> Batch:
    return written(rows, entries(*messages))


def written(rows: ViewerStore, entries: list[Entry]) -> Batch:
    batch = folded(rows, entries, LIKED_BY_FRACTION)
    rows.write(batch.changes)
    return batch


def test_events_lead_to_the_online_rows_of_the_build_through_restarts(
    store: OnlineStoreSettings, tmp_path: Path, folder: Path
) -> None:
    interactions: pd.DataFrame = random_interactions()
    home = Home(tmp_path)
    write_small_dataset(home, "small", interactions)
    build_features(home, "small", holdout="none", settings=store)
    repo = empty_repository(folder / "replayed", store)
    for some in parts(events_in_disorder(interactions, 3), 150):
        rows = open_rows(repo, 5)
        assert not applied(rows, list(some[:70]), list(some[70:])).dead
        rows.close()
    built, replayed = (open_rows(each, 5) for each in (home.features("small"), repo))
    assert replayed.read(VIEWERS) == built.read(VIEWERS)
    for viewer in VIEWERS:
        one, other = built.features(viewer), replayed.features(viewer)
        other.attributes.extend(one.attributes)  # which no event has
        one.updated_at = other.updated_at = 0
        assert one == other
    for name in ("hidden_keys", "shown_keys"):
        assert sum(bool(getattr(replayed.features(viewer), name)) for viewer in VIEWERS) > 10


def test_what_is_new_is_counted_once_for_what_is_trending(folder: Path) -> None:
    rows = open_rows(empty_repository(folder / "a"), 5)
    like = event("v", "b", LIKE)
    like.locale = "de-CH"
    shown = event("v", "c", event_pb2.EVENT_KIND_IMPRESSION)
    batch = applied(rows, [event("v", "a"), event("v", "a"), like, shown])
    assert len(batch.watched) == 3  # a watch of each, and a like
    assert {locale for _, _, locale in batch.watched} == {"de-CH"}
    assert batch.shown == {("v", video_key(video)) for video in "abc"}
    assert batch.kinds == {"play": 2, "like": 1, "impression": 1}
    assert applied(rows, [event("v", "a"), like]).watched == []


def test_an_event_that_cannot_be_applied_is_set_aside_alone(folder: Path) -> None:
    rows = open_rows(empty_repository(folder / "a"), 5)
    bad = event("v", "b")
    bad.ClearField("time")
    batch = written(
        rows, [Entry(4, "0", b"\xff\xff"), Entry(5, "0", message([event("v", "a"), bad]))]
    )
    assert batch.position.sequence == 5
    [garbage, letter] = batch.dead
    assert (garbage.recorded, garbage.position) == (b"\xff\xff", 4)
    assert list(log_pb2.RecordedEvents.FromString(letter.recorded).events) == [bad]
    assert letter.position == 5
    assert "or a time" in letter.reason
    assert read_viewer(folder / "a", "v").watch_count == 1


def test_what_is_set_aside_fits_into_the_log() -> None:
    batch, _ = read_batch([Entry(1, "0", b"\xff" * (1 << 20))])
    batch.set_event_aside(event("v", "a"), ValueError("no " * 10_000), 2)
    assert 1 << 18 < batch.dead[0].ByteSize() < 1 << 20
    assert batch.dead[1].ByteSize() < 1 << 11


@pytest.mark.parametrize("value", [b"", b"\xff\xff\xff"])
def test_a_row_that_is_garbage_sets_its_viewers_events_aside_alone(
    folder: Path, value: bytes
) -> None:
    repo = empty_repository(folder / "a")
    rows = open_rows(repo, 5)
    applied(rows, [event("bad", "a"), event("good", "a")])
    with sqlite3.connect(repo / "online.db") as connection:
        connection.execute(
            f'UPDATE "{rows.project}_viewer_activity" SET value = ? '
            "WHERE feature_name = 'watched_times' AND instr(entity_key, CAST('bad' AS BLOB))",
            (value,),
        )
    shown = event("bad", "b", event_pb2.EVENT_KIND_IMPRESSION)
    assert not applied(rows, [shown]).dead, "another part of the row is read"
    batch = applied(rows, [event("bad", "b"), event("good", "b"), shown])
    [letter, _] = batch.dead
    assert ("bad", video_key("b")) not in batch.shown
    assert letter.reason.startswith("UnfitRowError")
    assert batch.kinds["play"] == 1
    assert read_viewer(repo, "good").watch_count == 2
