from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.builders.datasets import random_interactions, write_small_dataset
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.home import Home
from vireo.training.data.dataset import Dataset, load_dataset
from vireo.training.data.split import split_watches
from vireo.training.evaluation.cold_start import (
    FOLDS,
    ColdSets,
    cold_sets,
    content_scores,
    kept_apart,
    random_measures,
    study_cold_start,
)
from vireo.training.profile import load_profile
from vireo.training.retrieval.data import HeldOut


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    home = Home(tmp_path_factory.mktemp("home"))
    write_small_dataset(home, "small", random_interactions())
    return load_dataset(home, "small")


@pytest.fixture(scope="module")
def watches(dataset: Dataset) -> pd.DataFrame:
    """The split as it is loaded: ids are texts, not categories."""
    texts = dict.fromkeys(("viewer_id", "video_id", "part"), str)
    return split_watches(dataset.interactions, "last").astype(texts)


@pytest.fixture(scope="module")
def sets(dataset: Dataset, watches: pd.DataFrame) -> ColdSets:
    return cold_sets(watches, dataset.videos, dataset.viewers)


@pytest.fixture(scope="module")
def past(watches: pd.DataFrame) -> list[list[str]]:
    """Each viewer's videos before the test, in order."""
    return list(watches[watches["part"] != "test"].groupby("viewer_id")["video_id"].agg(list))


def test_every_video_is_unseen_in_one_fold() -> None:
    ids = [f"video-{number}" for number in range(500)]
    folds = np.stack([kept_apart(ids, 1 / FOLDS, seed=16, fold=fold) for fold in range(FOLDS)])
    assert (folds.sum(0) == 1).all()
    assert folds.any(1).all()


def test_training_has_no_watch_of_a_kept_viewer_or_video(dataset: Dataset, sets: ColdSets) -> None:
    assert sets.unseen.any()
    assert not sets.unseen[sets.data.train.rows].any()
    assert len(sets.data.viewer_ids) < dataset.interactions["viewer_id"].nunique()
    assert sets.unseen[[case.target for case in sets.new_videos]].all()
    for cases in sets.new_viewers.values():
        assert not sets.unseen[[case.target for case in cases]].any()


def test_no_case_is_a_watch_of_the_test_part(sets: ColdSets, past: list[list[str]]) -> None:
    ids = np.array(sets.data.video_ids)
    for case in sets.new_videos:
        whole = [*ids[case.watched], ids[case.target]]
        assert any(each[: len(whole)] == whole for each in past)


def test_groups_of_viewers_have_as_many_known_watches_as_they_say(
    sets: ColdSets, past: list[list[str]]
) -> None:
    ids = np.array(sets.data.video_ids)
    unseen = set(ids[sets.unseen])
    whole = {tuple(one for one in each if one not in unseen) for each in past}
    lengths = {"0": {0}, "1": {1}, "2-5": {2, 3, 4, 5}}
    for groups in (sets.new_viewers, sets.late_viewers):
        for name, cases in groups.items():
            known = [case.viewer.watched_keys for case in cases]
            assert set() < {len(keys) for keys in known} <= lengths[name]
            for case, keys in zip(cases, known, strict=True):
                assert np.array_equal(case.viewer.history_keys, keys)
                # The last few watches are known, of new viewers all, and none is the answer.
                before = sets.data.keys[case.watched]
                assert np.array_equal(before[len(before) - len(keys) :], keys)
                assert len(keys) == len(before) or groups is sets.late_viewers
                assert (*ids[case.watched], ids[case.target]) in whole or groups is sets.new_viewers
    assert [*sets.new_viewers] == [*lengths]
    assert [*sets.late_viewers] == ["1", "2-5"]


def test_content_neighbours_share_informative_tokens(sets: ColdSets) -> None:
    known = [sets.data.keys[[4]], sets.data.keys[:0]]
    none = np.empty(0, np.int64)
    cases = [HeldOut(ViewerFeatures(watched_keys=keys), none, 0) for keys in known]
    scores = content_scores(sets.data, cases)
    even, odd = scores[0, 0:40:2], scores[0, 1:40:2]
    assert even.min() > odd.max(), "even videos share a tag with video 4"
    assert not scores[1].any()


def test_a_random_order_is_worth_its_chance() -> None:
    found = random_measures(np.array([200, 200]))
    expected = {"hr_10": 0.05, "recall_100": 0.5, "ndcg_10": 4.5436 / 200}
    assert found == pytest.approx(expected, rel=1e-3)


def test_the_study_measures_every_system_on_every_group(
    dataset: Dataset, watches: pd.DataFrame, sets: ColdSets, tmp_path: Path
) -> None:
    config = load_profile("quick").retrieval
    found: Any = study_cold_start(
        watches, dataset.videos, dataset.viewers, config, tmp_path, folds=2
    )
    other = cold_sets(watches, dataset.videos, dataset.viewers, fold=1)
    videos = found["videos"]
    assert videos["cases"] == len(sets.new_videos) + len(other.new_videos)
    assert videos["videos"] == sets.unseen.sum() + other.unseen.sum()
    for part in (*found["viewers"].values(), *found["late_viewers"].values(), videos):
        assert part["cases"] > 0
        assert set(part["systems"]) == {"vireo", "popularity", "content_knn", "random"}
        for measures in part["systems"].values():
            assert all(0 <= value <= 1 for value in measures.values())
