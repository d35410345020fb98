"""Reading a viewer's row from real Feast."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from server.errors import VireoError
from server.features.keys import video_keys
from server.gateway.features import (
    FeatureReader,
    UnfitRowError,
    viewer_from_row,
)
from server.gateway.online_rows import FEATURE_SERVICE
from tests.builders.tiny_home import DATASET, VIEWER, WATCHED


def test_a_known_viewer_has_the_history_in_order(features: Path) -> None:
    viewer = FeatureReader(features / DATASET, 1.0).read(VIEWER)
    assert list(viewer.history_keys) == video_keys(WATCHED).tolist()
    assert list(viewer.history_times) == [1704067200, 1704070800, 1704074400]
    assert sorted(viewer.watched_keys) == sorted(viewer.history_keys)
    assert list(viewer.attributes) == ["occupation=artist"]
    assert (viewer.watch_count, viewer.like_count) == (3, 2)


def test_an_unknown_viewer_has_the_defaults(features: Path) -> None:
    viewer = FeatureReader(features / DATASET, 1.0).read("nobody")
    assert len(viewer.history_keys) == len(viewer.watched_keys) == len(viewer.attributes) == 0
    assert viewer.watch_count == viewer.like_count == 0


@pytest.mark.parametrize("viewer_id", [VIEWER, "nobody", ""])
def test_a_row_is_the_one_that_feast_itself_reads(features: Path, viewer_id: str) -> None:
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(features / DATASET))
    response = store.get_online_features(
        features=store.get_feature_service(FEATURE_SERVICE), entity_rows=[{"viewer_id": viewer_id}]
    )
    wanted = viewer_from_row({name: values[0] for name, values in response.to_dict().items()})
    got = FeatureReader(features / DATASET, 1.0).read(viewer_id)
    assert got == wanted


def test_missing_features_are_reported_with_the_command_that_builds_them(tmp_path: Path) -> None:
    with pytest.raises(VireoError, match="vireo features build mine"):
        FeatureReader(tmp_path / "mine", 1.0)


def test_an_unreadable_online_store_is_reported_at_once(features: Path, tmp_path: Path) -> None:
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
            reader.read(VIEWER)
    file.write_bytes(content[:5000])
    with pytest.raises(sqlite3.Error):
        reader.read(VIEWER)
    file.write_bytes(content)
    assert reader.read(VIEWER).watch_count == 3
    # As another tool would put it back: by a rename.
    file.write_bytes(b"")
    with pytest.raises(sqlite3.Error):
        reader.read(VIEWER)
    (repo / "fresh.db").write_bytes(content)
    (repo / "fresh.db").replace(file)
    assert reader.read(VIEWER).watch_count == 3


@pytest.mark.parametrize(
    "odd",
    [
        {"watched_keys": [1], "history_times": ["yesterday"]},
        {"watched_keys": [1 << 70], "history_times": [1]},
        {"watched_keys": [None], "history_times": [1]},
        {"attributes": 7},
        {"watched_keys": [1], "history_times": [2, 3]},
    ],
)
def test_an_unusable_row_is_distinguished_from_a_failing_store(odd: dict[str, Any]) -> None:
    row = dict.fromkeys(
        (
            "history_times",
            "watched_keys",
            "attributes",
            "viewer_watch_count",
            "viewer_like_count",
        )
    )
    assert viewer_from_row(row).watch_count == 0
    with pytest.raises(UnfitRowError):
        viewer_from_row({**row, **odd})
