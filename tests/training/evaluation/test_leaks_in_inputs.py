"""What training is given has nothing of a test watch, and the checks would find it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.builders.datasets import random_interactions, write_small_dataset
from tests.builders.leaks.checks import LeakError, check_inputs
from vireo.server.features.keys import video_key
from vireo.server.home import Home
from vireo.training.data.dataset import load_dataset
from vireo.training.features.build import build_features
from vireo.training.features.watches import load_watches
from vireo.training.retrieval.data import RetrievalData


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    write_small_dataset(home, "small", random_interactions())
    build_features(home, "small")
    return home


@pytest.fixture(scope="module")
def watches(home: Home) -> pd.DataFrame:
    return load_watches(home, "small")


@pytest.fixture(scope="module")
def data(home: Home, watches: pd.DataFrame) -> RetrievalData:
    return towers_data(home, watches)


def towers_data(home: Home, watches: pd.DataFrame) -> RetrievalData:
    tables = load_dataset(home, "small")
    return RetrievalData.build(watches, tables.videos, tables.viewers)


@pytest.fixture
def repo(home: Home, tmp_path: Path) -> Path:
    """A copy of the features, to plant leaks in."""
    return Path(shutil.copytree(home.features("small"), tmp_path / "features"))


@pytest.fixture
def target(watches: pd.DataFrame) -> pd.Series:
    """A watch of the test part."""
    test: pd.Series = watches[watches["part"] == "test"].iloc[3]
    return test


def replanted(repo: Path, view: str, change: Any) -> None:
    """Rewrites the rows of a view, as lists of plain values."""
    path = repo / f"{view}.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)


def last_row(rows: list[dict[str, Any]], viewer: str) -> dict[str, Any]:
    return [row for row in rows if row["viewer_id"] == viewer][-1]


def test_a_clean_data_set_passes(watches: pd.DataFrame, data: RetrievalData, repo: Path) -> None:
    check_inputs(watches, data, repo)


def test_a_watch_kept_for_training_after_the_test_watch_is_found(
    watches: pd.DataFrame, data: RetrievalData, repo: Path, target: pd.Series
) -> None:
    own = watches["viewer_id"] == target["viewer_id"]
    late = watches.copy()
    first = late.index[own][0]
    late.loc[first, "time"] = target["time"] + pd.Timedelta(1, "s")
    with pytest.raises(LeakError, match=f"split.*'{target['viewer_id']}'"):
        check_inputs(late, data, repo)


@pytest.mark.parametrize("part", ["test", "validation"])
def test_a_held_out_watch_in_the_towers_sequences_is_found(
    home: Home, watches: pd.DataFrame, repo: Path, part: str
) -> None:
    held_out = watches[watches["part"] == part].iloc[0]
    planted = watches.copy()
    planted.loc[held_out.name, "part"] = "train"
    viewer, video = held_out["viewer_id"], held_out["video_id"]
    found = f"train sequences: viewer '{viewer}', video '{video}' .*{part} part"
    with pytest.raises(LeakError, match=found):
        check_inputs(watches, towers_data(home, planted), repo)


def test_a_test_watch_that_the_towers_are_chosen_by_is_found(
    home: Home, watches: pd.DataFrame, repo: Path, target: pd.Series
) -> None:
    planted = watches.copy()
    planted.loc[target.name, "part"] = "validation"
    found = f"validation sequences: viewer '{target['viewer_id']}'.*test part"
    with pytest.raises(LeakError, match=found):
        check_inputs(watches, towers_data(home, planted), repo)


def test_a_sequence_out_of_order_is_found(home: Home, watches: pd.DataFrame, repo: Path) -> None:
    train = watches[watches["part"] == "train"]
    viewer = train["viewer_id"].mode()[0]
    own = train.index[train["viewer_id"] == viewer]
    planted = watches.copy()
    planted.loc[own[[0, -1]], "video_id"] = watches.loc[own[[-1, 0]], "video_id"].to_numpy()
    with pytest.raises(LeakError, match=f"train sequences: viewer '{viewer}'"):
        check_inputs(watches, towers_data(home, planted), repo)


def test_the_test_watch_in_a_viewers_features_is_found(
    watches: pd.DataFrame, data: RetrievalData, repo: Path, target: pd.Series
) -> None:
    viewer, video = target["viewer_id"], target["video_id"]
    plants = {
        "watched_keys": lambda row: row["watched_keys"].append(video_key(video)),
    }
    clean = (repo / "viewer_activity.parquet").read_bytes()
    for name, plant in plants.items():
        replanted(repo, "viewer_activity", lambda rows, p=plant: p(last_row(rows, viewer)))
        with pytest.raises(LeakError, match=f"{name}: viewer '{viewer}', video '{video}'.*test"):
            check_inputs(watches, data, repo)
        (repo / "viewer_activity.parquet").write_bytes(clean)


def test_a_row_of_features_that_is_dated_back_is_found(
    watches: pd.DataFrame, data: RetrievalData, repo: Path
) -> None:
    def dated_back(rows: list[dict[str, Any]]) -> None:
        row = max(rows, key=lambda row: len(row["history_times"]))
        row["event_timestamp"] = pd.Timestamp(row["history_times"][-1] - 1, unit="s", tz="UTC")

    replanted(repo, "viewer_activity", dated_back)
    with pytest.raises(LeakError, match="viewer_activity"):
        check_inputs(watches, data, repo)


def test_a_row_after_the_test_watch_is_found(
    watches: pd.DataFrame, data: RetrievalData, repo: Path, target: pd.Series
) -> None:
    def later(rows: list[dict[str, Any]]) -> None:
        last_row(rows, target["viewer_id"])["event_timestamp"] = target["time"]

    replanted(repo, "viewer_activity", later)
    with pytest.raises(LeakError, match=f"a row of viewer_activity.*'{target['viewer_id']}'"):
        check_inputs(watches, data, repo)


@pytest.mark.parametrize("name", ["viewer_watch_count", "viewer_like_count"])
def test_a_viewers_count_that_includes_the_test_watch_is_found(
    watches: pd.DataFrame, data: RetrievalData, repo: Path, target: pd.Series, name: str
) -> None:
    def counted(rows: list[dict[str, Any]]) -> None:
        last_row(rows, target["viewer_id"])[name] += 1

    replanted(repo, "viewer_activity", counted)
    with pytest.raises(LeakError, match=f"{name}: viewer '{target['viewer_id']}'"):
        check_inputs(watches, data, repo)


@pytest.mark.parametrize("name", ["video_watch_count", "video_recent_watch_count"])
def test_a_videos_count_that_includes_a_test_watch_is_found(
    watches: pd.DataFrame, data: RetrievalData, repo: Path, target: pd.Series, name: str
) -> None:
    def counted(rows: list[dict[str, Any]]) -> None:
        own = [row for row in rows if row["video_id"] == target["video_id"]]
        own[-1][name] += 1

    replanted(repo, "video_statistics", counted)
    with pytest.raises(LeakError, match=f"video_statistics.{name}.*video '{target['video_id']}'"):
        check_inputs(watches, data, repo)


def test_a_like_that_came_later_is_found(
    watches: pd.DataFrame, data: RetrievalData, repo: Path
) -> None:
    def liked(rows: list[dict[str, Any]]) -> None:
        row = rows[-1]
        row["video_like_rate"] += 1 / (row["video_watch_count"] + 5)

    replanted(repo, "video_statistics", liked)
    with pytest.raises(LeakError, match="video_like_rate"):
        check_inputs(watches, data, repo)
