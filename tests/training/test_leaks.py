"""Nothing of a test watch reaches training or what it makes, and the checks would find it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.builders.leaks.checks import LeakError, check_inputs, check_made
from vireo.server.features.keys import video_key
from vireo.server.home import Home
from vireo.server.releases import layout
from vireo.training.data.dataset import load_dataset
from vireo.training.ranking.training_set import RankingSet
from vireo.training.retrieval.data import RetrievalData

Rows = list[dict[str, Any]]


def towers_data(home: Home, watches: pd.DataFrame) -> RetrievalData:
    tables = load_dataset(home, "trained")
    return RetrievalData.build(watches, tables.videos, tables.viewers)


@pytest.fixture(scope="module")
def data(trained_home: Home, trained_watches: pd.DataFrame) -> RetrievalData:
    return towers_data(trained_home, trained_watches)


@pytest.fixture
def repo(trained_home: Home, tmp_path: Path) -> Path:
    """A copy of the features, to plant leaks in."""
    return Path(shutil.copytree(trained_home.features("trained"), tmp_path / "features"))


@pytest.fixture(scope="module")
def target(trained_watches: pd.DataFrame) -> pd.Series:
    """A watch of the test part."""
    test: pd.Series = trained_watches[trained_watches["part"] == "test"].iloc[3]
    return test


def test_nothing_of_a_test_watch_reaches_training(
    trained_home: Home, trained_watches: pd.DataFrame, data: RetrievalData, ranking_set: RankingSet
) -> None:
    check_inputs(trained_watches, data, trained_home.features("trained"))
    check_made(trained_watches, data, trained_home.staged_release("trained"), ranking_set)


def test_a_watch_kept_for_training_after_the_test_watch_is_found(
    trained_watches: pd.DataFrame, data: RetrievalData, repo: Path, target: pd.Series
) -> None:
    late = trained_watches.copy()
    first = late.index[late["viewer_id"] == target["viewer_id"]][0]
    late.loc[first, "time"] = target["time"] + pd.Timedelta(1, "s")
    with pytest.raises(LeakError, match=f"split.*'{target['viewer_id']}'"):
        check_inputs(late, data, repo)


@pytest.mark.parametrize(
    ("part", "planted_in"),
    [("test", "train"), ("validation", "train"), ("test", "validation"), ("train", "")],
)
def test_a_watch_in_the_wrong_sequences_or_place_of_the_towers_is_found(
    trained_home: Home, trained_watches: pd.DataFrame, repo: Path, part: str, planted_in: str
) -> None:
    planted = trained_watches.copy()
    own = planted[planted["part"] == part]
    if planted_in:
        held_out = own.iloc[0]
        planted.loc[held_out.name, "part"] = planted_in
        viewer = held_out["viewer_id"]
        found = f"{planted_in} sequences: viewer '{viewer}', video '{held_out['video_id']}'.*{part}"
    else:
        viewer = own["viewer_id"].mode()[0]
        ends = own.index[own["viewer_id"] == viewer][[0, -1]]
        planted.loc[ends, "video_id"] = trained_watches.loc[ends[::-1], "video_id"].to_numpy()
        found = f"train sequences: viewer '{viewer}'"
    with pytest.raises(LeakError, match=found):
        check_inputs(trained_watches, towers_data(trained_home, planted), repo)


def last_row(rows: Rows, key: str, target: pd.Series) -> dict[str, Any]:
    return [row for row in rows if row[key] == target[key]][-1]


def counted(name: str, key: str) -> Callable[[Rows, pd.Series], None]:
    def plant(rows: Rows, target: pd.Series) -> None:
        last_row(rows, key, target)[name] += 1

    return plant


def watched(rows: Rows, target: pd.Series) -> None:
    last_row(rows, "viewer_id", target)["watched_keys"].append(video_key(target["video_id"]))


def dated_back(rows: Rows, _: pd.Series) -> None:
    row = max(rows, key=lambda row: len(row["history_times"]))
    row["event_timestamp"] = pd.Timestamp(row["history_times"][-1] - 1, unit="s", tz="UTC")


def later(rows: Rows, target: pd.Series) -> None:
    last_row(rows, "viewer_id", target)["event_timestamp"] = target["time"]


def liked(rows: Rows, _: pd.Series) -> None:
    rows[-1]["video_like_rate"] += 1 / (rows[-1]["video_watch_count"] + 5)


@pytest.mark.parametrize(
    ("view", "plant", "found"),
    [
        ("viewer_activity", watched, "watched_keys: viewer '{viewer}', video '{video}'.*test"),
        ("viewer_activity", dated_back, "viewer_activity"),
        ("viewer_activity", later, "a row of viewer_activity.*'{viewer}'"),
        *(
            ("viewer_activity", counted(name, "viewer_id"), f"{name}: viewer '{{viewer}}'")
            for name in ("viewer_watch_count", "viewer_like_count")
        ),
        *(
            ("video_statistics", counted(name, "video_id"), f"{name}.*video '{{video}}'")
            for name in ("video_watch_count", "video_recent_watch_count")
        ),
        ("video_statistics", liked, "video_like_rate"),
    ],
)
def test_features_that_know_of_a_later_event_are_found(
    trained_watches: pd.DataFrame,
    data: RetrievalData,
    repo: Path,
    target: pd.Series,
    view: str,
    plant: Callable[[Rows, pd.Series], None],
    found: str,
) -> None:
    path = repo / f"{view}.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    plant(rows, target)
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    said = found.format(viewer=target["viewer_id"], video=target["video_id"])
    with pytest.raises(LeakError, match=said):
        check_inputs(trained_watches, data, repo)


def test_a_ranker_that_is_taught_the_test_watch_or_later_counts_is_found(
    trained_home: Home, trained_watches: pd.DataFrame, data: RetrievalData, ranking_set: RankingSet
) -> None:
    target = trained_watches[trained_watches["part"] == "test"].iloc[0]
    row = data.video_ids.index(target["video_id"])
    labels = trained_watches[trained_watches["part"] != "test"]
    labels = labels.groupby("viewer_id", sort=False).tail(11).reset_index(drop=True)
    place = int(np.flatnonzero(labels["viewer_id"] == target["viewer_id"])[0])
    outcomes, viewers = ranking_set.outcomes, ranking_set.outcomes.viewers
    rows, history = outcomes.rows.copy(), viewers.history_rows.copy()
    rows[place], history[place, 0] = row, row
    more = viewers.viewer_features + np.float32(0.7)
    leak = f"viewer '{target['viewer_id']}', video '{target['video_id']}'.*test part"
    counts = "features of the ranker's outcome labels"
    late = replace(ranking_set.watches, moment=ranking_set.watches.moment + 1)
    plants: list[tuple[dict[str, Any], str]] = [
        ({"rows": rows}, f"outcome labels: {leak}"),
        (
            {"viewers": replace(viewers, history_rows=history)},
            f"histories of the ranker's outcome labels: {leak}",
        ),
        ({"features": outcomes.features + np.float32(0.7)}, counts),
        ({"viewers": replace(viewers, viewer_features=more)}, counts),
    ]
    planted = [(replace(ranking_set, outcomes=replace(outcomes, **p)), said) for p, said in plants]
    planted.append((replace(ranking_set, watches=late), "moments of the ranker's lists"))
    for given, said in planted:
        with pytest.raises(LeakError, match=said):
            check_made(trained_watches, data, trained_home.staged_release("trained"), given)


@pytest.mark.parametrize(
    ("file", "named"),
    [
        (layout.VIDEO_FEATURE_TABLE, "video features"),
        (layout.POPULARITY, "popularity"),
        (layout.CO_WATCH_WEIGHTS, "co-watch table"),
        (layout.EASE_WEIGHTS, "EASE table"),
    ],
)
def test_a_release_that_counts_other_events_is_found(
    trained_home: Home,
    trained_watches: pd.DataFrame,
    data: RetrievalData,
    tmp_path: Path,
    file: str,
    named: str,
) -> None:
    folder = Path(shutil.copytree(trained_home.staged_release("trained"), tmp_path / "release"))
    table = np.load(folder / file)
    table[3] += 1
    np.save(folder / file, table)
    with pytest.raises(LeakError, match=named):
        check_made(trained_watches, data, folder, None)
