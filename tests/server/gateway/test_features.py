"""Reading a viewer's row from real Feast."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.builders.datasets import random_interactions, write_small_dataset
from tests.builders.hanging import hanging
from tests.builders.tiny_home import DATASET, VIEWER, WATCHED, build_tiny_features
from tests.builders.waiting import wait_until
from vireo.server.errors import VireoError
from vireo.server.features.keys import video_keys
from vireo.server.features.viewer_rows import FEATURE_SERVICE, SERVED, UnfitRowError, features_of
from vireo.server.gateway.features import FeatureReader
from vireo.server.home import Home
from vireo.training.features.build import build_features
from vireo.v1.viewer_pb2 import ViewerFeatures


def read(reader: FeatureReader, viewer_id: str) -> ViewerFeatures:
    """Reads in an event loop of its own, which a file doesn't mind."""
    return asyncio.run(reader.read(viewer_id, 1.0))


def test_a_known_viewer_has_the_history_in_order_and_others_the_defaults(features: Path) -> None:
    reader = FeatureReader(features / DATASET, 1.0)
    nobody = read(reader, "nobody")
    assert len(nobody.history_keys) == len(nobody.watched_keys) == len(nobody.attributes) == 0
    assert nobody.watch_count == nobody.like_count == 0
    viewer = read(reader, VIEWER)
    assert list(viewer.history_keys) == video_keys(WATCHED).tolist()
    assert list(viewer.history_times) == [1704067200, 1704070800, 1704074400]
    assert sorted(viewer.watched_keys) == sorted(viewer.history_keys)
    assert list(viewer.attributes) == ["occupation=artist"]
    assert (viewer.watch_count, viewer.like_count) == (3, 2)


@pytest.mark.parametrize("viewer_id", [VIEWER, "nobody", ""])
def test_a_row_is_the_one_that_feast_itself_reads(features: Path, viewer_id: str) -> None:
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(features / DATASET))
    response = store.get_online_features(
        features=store.get_feature_service(FEATURE_SERVICE), entity_rows=[{"viewer_id": viewer_id}]
    )
    found = response.proto
    stored = zip(found.metadata.feature_names.val, found.results, strict=True)
    wanted = features_of({name: result.values[0].SerializeToString() for name, result in stored})
    got = read(FeatureReader(features / DATASET, 1.0), viewer_id)
    assert (got.updated_at > 0) == (viewer_id == VIEWER)
    wanted.updated_at = got.updated_at
    assert got == wanted


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata", "UTC"])
def test_the_time_of_the_last_change_is_the_same_in_every_time_zone(
    features: Path, tmp_path: Path, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from feast import FeatureStore
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    shutil.copytree(features, tmp_path / "copy")
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        store = FeatureStore(repo_path=str(tmp_path / "copy" / DATASET))
        key = EntityKey(join_keys=["viewer_id"], entity_values=[Value(string_val="new")])
        at = datetime(2026, 7, 1, 12, tzinfo=UTC)
        rows: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]] = [
            (key, {"viewer_watch_count": Value(int64_val=1)}, at, None)
        ]
        for name in SERVED:
            view = store.get_feature_view(name)
            store._get_provider().online_write_batch(store.config, view, rows, None)
        got = read(FeatureReader(tmp_path / "copy" / DATASET, 1.0), "new")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert got.watch_count == 1
    assert got.updated_at == at.timestamp()


def test_features_that_are_missing_or_unreadable_are_reported_at_once(
    features: Path, tmp_path: Path
) -> None:
    with pytest.raises(VireoError, match="vireo features build --data mine"):
        FeatureReader(tmp_path / "mine", 1.0)
    shutil.copytree(features, tmp_path / "copy")
    (tmp_path / "copy" / DATASET / "online.db").write_bytes(b"not a database" * 100)
    with pytest.raises(VireoError, match=r"online store .* can't be read"):
        FeatureReader(tmp_path / "copy" / DATASET, 1.0)


def test_a_store_that_lost_its_file_is_read_again_once_it_has_it_back(
    features: Path, tmp_path: Path
) -> None:
    repo = shutil.copytree(features, tmp_path / "copy") / DATASET
    reader, file = FeatureReader(repo, 1.0), repo / "online.db"
    content = file.read_bytes()
    file.write_bytes(b"")
    for _ in range(3):
        with pytest.raises(sqlite3.Error):
            read(reader, VIEWER)
    file.write_bytes(content[:5000])
    with pytest.raises(sqlite3.Error):
        read(reader, VIEWER)
    file.write_bytes(content)
    assert read(reader, VIEWER).watch_count == 3
    # As another tool would put it back: by a rename.
    file.write_bytes(b"")
    with pytest.raises(sqlite3.Error):
        read(reader, VIEWER)
    (repo / "fresh.db").write_bytes(content)
    (repo / "fresh.db").replace(file)
    assert read(reader, VIEWER).watch_count == 3


def test_features_that_are_built_again_are_read_from_then_on(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vireo.server.gateway.features._LOOK_SECONDS", 0.0)
    home = Home(tmp_path)
    build_tiny_features(home)
    repo = home.features(DATASET)
    reader = FeatureReader(repo, 1.0)
    assert read(reader, "w1").watch_count == 0
    write_small_dataset(home, DATASET, random_interactions())
    build_features(home, DATASET, holdout="none")
    wait_until(lambda: read(reader, "w1").watch_count > 0)
    assert read(reader, VIEWER).watch_count == 0
    with structlog.testing.capture_logs() as logs:
        # Features that can't be used leave those before.
        (repo / "feature_store.yaml").write_text("project: [")
        # The word that the others were opened may come only now.
        unopened = "can't open the features built last"
        wait_until(lambda: bool(read(reader, "w1") and unopened in {log["event"] for log in logs}))
    assert read(reader, "w1").watch_count > 0


def test_viewers_are_read_while_the_volume_of_the_configuration_hangs(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vireo.server.gateway.features._LOOK_SECONDS", 0.0)
    repo = shutil.copytree(features, tmp_path / "copy") / DATASET
    reader, before = FeatureReader(repo, 1.0), threading.active_count()
    with hanging(repo / "feature_store.yaml"):
        check = reader._rebuilt.start()
        wait_until(check.running)
        for _ in range(20):
            assert read(reader, VIEWER).watch_count == 3
        assert reader._rebuilt.start() is check
        assert threading.active_count() - before <= 2, "its own, and the one that ends the hang"


@pytest.mark.parametrize(
    "odd",
    [
        {"watched_keys": {"int64_list_val": {"val": [1]}}, "history_times": {"int64_val": 7}},
        {"watched_keys": {"string_list_val": {"val": ["a"]}}},
        {"attributes": {"string_val": "age=25"}},
        {"viewer_like_count": {"string_val": "many"}},
        {"history_times": {"int64_list_val": {"val": [2]}}},
    ],
)
def test_an_unusable_row_is_distinguished_from_a_failing_store(odd: dict[str, Any]) -> None:
    from feast.protos.feast.types.Value_pb2 import NULL, Value

    row = {"viewer_watch_count": Value(int64_val=3), "watched_keys": Value(null_val=NULL)}
    stored = {name: value.SerializeToString() for name, value in row.items()}
    assert features_of(stored).watch_count == 3
    stored |= {name: Value(**value).SerializeToString() for name, value in odd.items()}
    with pytest.raises(UnfitRowError):
        features_of(stored)


def test_the_history_is_the_end_of_what_was_watched() -> None:
    from feast.protos.feast.types.Value_pb2 import Int64List, Value

    def viewer(times: list[int]) -> ViewerFeatures:
        columns = {"watched_keys": [5, 6, 7], "history_times": times}
        stored = {
            name: Value(int64_list_val=Int64List(val=val)).SerializeToString()
            for name, val in columns.items()
        }
        return features_of(stored)

    assert list(viewer([1, 2]).history_keys) == [6, 7]
    assert list(viewer([1, 2, 3]).history_keys) == [5, 6, 7]
    assert list(viewer([]).history_keys) == []
    assert list(viewer([]).watched_keys) == [5, 6, 7]
