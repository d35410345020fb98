from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from vireo.server.features.keys import video_keys
from vireo.server.features.model_inputs import (
    VideoTable,
    ranking_inputs,
    retrieval_features,
)
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline, CandidateQuery
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases import layout
from vireo.server.signals import OUTCOMES
from vireo.training.config import RankingConfig
from vireo.training.features.publication import of_the_past
from vireo.training.features.statistics import just_before, video_features_at
from vireo.training.features.viewers import PastViewers
from vireo.training.features.watches import HIDDEN, load_hidden, write_watches
from vireo.training.ranking import training_set
from vireo.training.ranking.loss import Batches
from vireo.training.ranking.training_set import RankingSet, build_ranking_set, is_held_out

CONFIG = RankingConfig(candidates=20, holdout_share=0.3)
HIDE = [task.name for task in OUTCOMES].index("hide")


@pytest.fixture(scope="module")
def data(
    trained_watches: pd.DataFrame, trained_repo: Path, release: CandidateRelease
) -> RankingSet:
    return build_ranking_set(trained_watches, trained_repo, release, CONFIG)


@pytest.fixture(scope="module")
def labels(trained_watches: pd.DataFrame) -> pd.DataFrame:
    return trained_watches[trained_watches["part"] == "validation"].reset_index(drop=True)


@pytest.fixture(scope="module")
def last_watches(trained_watches: pd.DataFrame) -> pd.DataFrame:
    """Each viewer's last ones before the test."""
    past = trained_watches[trained_watches["part"] != "test"]
    return past.groupby("viewer_id", sort=False).tail(11)


def rows_of(release: CandidateRelease, watches: pd.DataFrame) -> np.ndarray:
    return release.rows.find(video_keys(watches["video_id"].tolist()))


def test_each_validation_watch_has_a_list_of_unwatched_videos_with_it_or_without(
    data: RankingSet,
    labels: pd.DataFrame,
    trained_watches: pd.DataFrame,
    release: CandidateRelease,
) -> None:
    assert len(data.watches.label) == len(labels) > 20
    assert (data.watches.label >= 0).any()
    wanted = rows_of(release, labels)
    for place, (_, watch) in enumerate(labels.iterrows()):
        rows, label = data.watches.rows[place], data.watches.label[place]
        if label >= 0:
            assert rows[label] == wanted[place]
        else:
            assert wanted[place] not in rows
        own = trained_watches["viewer_id"] == watch["viewer_id"]
        earlier = trained_watches[own & (trained_watches["time"] < watch["time"])]
        assert not np.intersect1d(rows_of(release, earlier), rows).size


def test_a_set_made_in_parts_is_the_same(
    data: RankingSet,
    trained_watches: pd.DataFrame,
    trained_repo: Path,
    release: CandidateRelease,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training_set, "_LABELS_AT_A_TIME", 101)
    parts = build_ranking_set(trained_watches, trained_repo, release, CONFIG)
    np.testing.assert_equal(asdict(parts), asdict(data))


def test_no_ranker_is_trained_on_lists_that_a_broken_source_left_short(
    trained_watches: pd.DataFrame, trained_repo: Path, release: CandidateRelease
) -> None:
    broken = replace(release, co_watch_rows=release.co_watch_rows[:0])
    with pytest.raises(IndexError):
        build_ranking_set(trained_watches, trained_repo, broken, CONFIG)


def test_inputs_are_those_that_serving_computes_at_the_same_moment(
    data: RankingSet, labels: pd.DataFrame, trained_repo: Path, release: CandidateRelease
) -> None:
    place = len(labels) // 2
    [viewer] = PastViewers(trained_repo).before(labels[place : place + 1])
    past, embargo = of_the_past(release)
    embargo.ask(viewer.asked_at, int(data.watches.rows[place, data.watches.label[place]]))
    drawn = CandidatePipeline(past).retrieve(CandidateQuery(viewer=viewer, count=20))
    at = just_before(np.array([viewer.asked_at]))
    features = np.empty((len(release.keys), 4), np.float32)
    features[drawn.rows] = video_features_at(trained_repo, release.ids, drawn.rows[None], at)[0]
    content = np.load(release.folder / layout.CONTENT_VECTORS)
    served = ranking_inputs(
        viewer,
        release.rows.find(viewer.history_keys),
        drawn.rows,
        retrieval_features(drawn.scores, drawn.source_masks),
        VideoTable(release.vectors, features, content, np.load(release.folder / layout.CREATORS)),
        release.vocabulary,
    )
    fed, real = Batches(release.vectors).inputs(data.watches, np.array([place]))
    assert real.all()
    assert fed.keys() == served.keys()
    for name, value in served.items():
        assert torch.equal(fed[name], torch.from_numpy(value)), name


def test_histories_end_before_their_label(
    data: RankingSet, labels: pd.DataFrame, trained_watches: pd.DataFrame
) -> None:
    """The watch itself isn't in the history: as many videos as were watched before."""
    before = trained_watches[trained_watches["part"] == "train"]["viewer_id"].value_counts()
    earlier = labels.groupby("viewer_id").cumcount().to_numpy()
    assert set(earlier) == {0, 1}, "both of a viewer's validation watches"
    counted = np.rint(np.expm1(data.watches.viewers.viewer_features[:, 0]))
    assert np.array_equal(counted, before.reindex(labels["viewer_id"]).to_numpy() + earlier)


def test_outcomes_are_labelled_by_last_watches_and_by_videos_hidden_since(
    data: RankingSet, last_watches: pd.DataFrame, trained_repo: Path, release: CandidateRelease
) -> None:
    outcomes = data.outcomes
    hidden = outcomes.labels[:, HIDE] == 1
    assert np.array_equal(outcomes.rows[~hidden, 0], rows_of(release, last_watches))
    likes = outcomes.labels[~hidden, 0]
    assert np.array_equal(likes, last_watches["liked"].to_numpy())
    assert 0 < likes.mean() < 1
    hides, since = load_hidden(trained_repo), last_watches.groupby("viewer_id")["time"].min()
    late = hides[hides["time"] >= hides["viewer_id"].map(since)]
    assert 20 < len(late) < len(hides)
    assert np.array_equal(outcomes.rows[hidden, 0], rows_of(release, late))
    assert np.isnan(np.delete(outcomes.labels[hidden], HIDE, 1)).all()
    # Features are those of the moment at which the video was played or hidden.
    counts = [viewer.watch_count for viewer in PastViewers(trained_repo).before(late)]
    found = np.expm1(outcomes.viewers.viewer_features[hidden, 0])
    assert np.array_equal(np.rint(found), counts)


def test_whether_videos_were_hidden_is_unknown_without_hides(
    data: RankingSet,
    trained_watches: pd.DataFrame,
    trained_repo: Path,
    release: CandidateRelease,
    tmp_path: Path,
) -> None:
    unhidden = Path(shutil.copytree(trained_repo, tmp_path / "features"))
    write_watches(load_hidden(trained_repo)[:0], unhidden / HIDDEN)
    without = build_ranking_set(trained_watches, unhidden, release, CONFIG)
    assert np.isnan(without.outcomes.labels[:, HIDE]).all()
    watched = data.outcomes.labels[:, HIDE] == 0
    assert np.array_equal(without.outcomes.rows, data.outcomes.rows[watched])
    for name, column in vars(data.watches).items():
        if name != "viewers":  # who are numbered along with those of the hides
            np.testing.assert_array_equal(getattr(without.watches, name), column, name)


def test_a_viewer_is_held_out_of_everything_or_of_nothing(
    data: RankingSet, labels: pd.DataFrame, last_watches: pd.DataFrame
) -> None:
    viewers = last_watches["viewer_id"]
    held = {viewer for viewer in viewers if is_held_out(viewer, CONFIG.holdout_share)}
    assert 0 < len(held) < viewers.nunique()
    watched = data.outcomes.labels[:, HIDE] == 0
    assert np.array_equal(data.outcomes.viewers.held_out[watched], viewers.isin(held).to_numpy())
    groups = pd.DataFrame(vars(data.outcomes.viewers), columns=["viewer", "held_out"])
    assert (groups.groupby("viewer")["held_out"].nunique() == 1).all()
    assert np.array_equal(data.watches.viewers.held_out, labels["viewer_id"].isin(held).to_numpy())
    share = np.mean([is_held_out(str(n), 0.15) for n in range(5000)])
    assert share == pytest.approx(0.15, abs=0.02)
