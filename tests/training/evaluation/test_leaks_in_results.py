"""What training makes has nothing of a test watch, and the checks would find it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.builders.leaks.checks import LeakError, check_inputs, check_made
from vireo.server.home import Home
from vireo.server.releases import layout
from vireo.training.ranking.training_set import RankingSet
from vireo.training.retrieval.data import RetrievalData


def test_nothing_of_a_test_watch_reaches_training(
    trained_home: Home, trained_watches: pd.DataFrame, data: RetrievalData, ranking_set: RankingSet
) -> None:
    check_inputs(trained_watches, data, trained_home.features("trained"))
    release = trained_home.staged_release("trained")
    check_made(trained_watches, data, release, ranking_set)


def test_a_ranker_that_is_taught_the_test_watch_is_found(
    trained_home: Home, trained_watches: pd.DataFrame, data: RetrievalData, ranking_set: RankingSet
) -> None:
    target = trained_watches[trained_watches["part"] == "test"].iloc[0]
    row = data.video_ids.index(target["video_id"])
    labels = trained_watches[trained_watches["part"] != "test"]
    labels = labels.groupby("viewer_id", sort=False).tail(11).reset_index(drop=True)
    place = int(np.flatnonzero(labels["viewer_id"] == target["viewer_id"])[0])
    outcomes = ranking_set.outcomes
    rows, history = outcomes.rows.copy(), outcomes.viewers.history_rows.copy()
    rows[place], history[place, 0] = row, row
    leaking = replace(outcomes, viewers=replace(outcomes.viewers, history_rows=history))
    late = replace(ranking_set.watches, moment=ranking_set.watches.moment + 1)
    folder = trained_home.staged_release("trained")
    leak = f"viewer '{target['viewer_id']}', video '{target['video_id']}'.*test part"
    for planted, where in (
        (replace(ranking_set, outcomes=replace(outcomes, rows=rows)), f"outcome labels: {leak}"),
        (
            replace(ranking_set, outcomes=leaking),
            f"histories of the ranker's outcome labels: {leak}",
        ),
        (replace(ranking_set, watches=late), "moments of the ranker's lists"),
    ):
        with pytest.raises(LeakError, match=where):
            check_made(trained_watches, data, folder, planted)


@pytest.mark.parametrize("table", ["features", "viewer_features"])
def test_counts_of_later_events_beside_a_label_are_found(
    trained_home: Home,
    trained_watches: pd.DataFrame,
    data: RetrievalData,
    ranking_set: RankingSet,
    table: str,
) -> None:
    outcomes = ranking_set.outcomes
    if table == "features":
        planted = replace(outcomes, features=outcomes.features + np.float32(0.7))
    else:
        more = outcomes.viewers.viewer_features + np.float32(0.7)
        planted = replace(outcomes, viewers=replace(outcomes.viewers, viewer_features=more))
    with pytest.raises(LeakError, match="features of the ranker's outcome labels"):
        check_made(
            trained_watches,
            data,
            trained_home.staged_release("trained"),
            replace(ranking_set, outcomes=planted),
        )


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
