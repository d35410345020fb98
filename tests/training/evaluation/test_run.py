from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.builders.watches import watches_frame
from vireo.server.errors import VireoError
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.home import Home
from vireo.server.recommend.ranking.release import RankingRelease
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases.manifest import Manifest
from vireo.training.evaluation import report as files
from vireo.training.evaluation.baselines import BASELINES
from vireo.training.evaluation.chain import ChainAnswers, ranker_measures, run_chain, tower_scores
from vireo.training.evaluation.report import flat, popularity_shares, read_json, sliced
from vireo.training.evaluation.run import evaluate_staged, read_measured, recall_curves
from vireo.training.evaluation.systems import (
    TestBed,
    TestViewers,
    best_unwatched,
    features_before_test,
    list_ranks,
    of_chunks,
    of_lists,
    past_watches,
    read_systems,
)
from vireo.training.evaluation.tuning import read_settings
from vireo.training.features.publication import of_the_past, published_of
from vireo.training.features.statistics import just_before, video_features_at

SYSTEMS = {"popularity", "item_knn", "ease", "two_tower", "chain", "ranker"}


@pytest.fixture(scope="module")
def viewers(trained_watches: pd.DataFrame, release: CandidateRelease) -> TestViewers:
    return TestBed.of(trained_watches, release.ids, published_of(release)).viewers


@pytest.fixture(scope="module")
def features(trained_repo: Path, trained_watches: pd.DataFrame) -> list[ViewerFeatures]:
    return features_before_test(trained_watches, trained_repo)


@pytest.fixture(scope="module")
def answers(
    trained_repo: Path,
    release: CandidateRelease,
    viewers: TestViewers,
    features: list[ViewerFeatures],
) -> ChainAnswers:
    ranking = RankingRelease.load(release.folder)
    return run_chain(release, ranking, features, viewers.targets, 30, trained_repo)


def test_past_watches_are_those_before_the_test_in_order() -> None:
    watches = watches_frame({"a": ["x", "y", "z"], "b": ["z"], "c": ["y", "x", "z"]})
    last = ~watches["viewer_id"].duplicated(keep="last")
    watches["part"] = np.where(last, "test", "train")
    past = past_watches(watches.iloc[[4, 0, 5, 3, 1, 6, 2]], ["x", "y", "z"])
    assert {viewer: rows.tolist() for viewer, rows in past.items()} == {"a": [0, 1], "c": [1, 0]}
    assert list(past) == ["a", "c"]
    assert past_watches(watches[last], ["x", "y", "z"]) == {}


def test_every_viewer_with_a_test_watch_is_known_as_just_before_it(
    trained_watches: pd.DataFrame,
    viewers: TestViewers,
    features: list[ViewerFeatures],
    release: CandidateRelease,
) -> None:
    test = trained_watches[trained_watches["part"] == "test"]
    assert viewers.ids == tuple(test["viewer_id"])
    assert [release.ids[row] for row in viewers.targets] == test["video_id"].tolist()
    for known, watched, target in zip(features, viewers.watched, viewers.targets, strict=True):
        rows = release.rows.find(known.watched_keys)
        assert set(rows) == set(watched)
        assert target not in rows
    assert [known.asked_at for known in features] == viewers.moments.tolist()
    assert all(known.history_times[-1] <= known.asked_at for known in features)


def test_the_chain_ranks_retrieved_unwatched_videos(
    answers: ChainAnswers, viewers: TestViewers
) -> None:
    for ranked, watched in zip(answers.ranked, viewers.watched, strict=True):
        assert len(np.unique(ranked[ranked >= 0])) == (ranked >= 0).sum() > 0
        assert not np.intersect1d(ranked, watched).size
    # The best comes first; those after it give way to diversity, where the release asks for it.
    assert (answers.watch[:, 0] == answers.watch.max(axis=1)).all()
    assert ((answers.target_outcomes > 0) & (answers.target_outcomes < 1)).all()


def test_videos_have_the_features_of_each_requests_time_however_late_the_releases_snapshot_is(
    trained_repo: Path,
    release: CandidateRelease,
    viewers: TestViewers,
    features: list[ViewerFeatures],
    answers: ChainAnswers,
) -> None:
    ranking = RankingRelease.load(release.folder)

    def asked(table: np.ndarray, places: np.ndarray, repo: Path | None) -> ChainAnswers:
        own = replace(ranking, table=replace(ranking.table, features=table))
        some, targets = [features[place] for place in places], viewers.targets[places]
        candidates, embargo = of_the_past(release)
        embargo.ask(some[0].asked_at, int(targets[0]))
        return run_chain(candidates, own, some, targets, 30, repo)

    everyone, later = np.arange(len(features)), np.asarray(ranking.table.features) + 2
    assert np.array_equal(asked(later, everyone, trained_repo).watch, answers.watch)
    assert not np.allclose(asked(later, everyone, None).watch, answers.watch)
    for place in (viewers.moments.argmin(), viewers.moments.argmax()):
        every, at = np.arange(len(release.ids))[None], just_before(viewers.moments[[place]])
        trained_on = video_features_at(trained_repo, release.ids, every, at)[0]
        alone = asked(trained_on, np.array([place]), None)
        assert np.array_equal(alone.watch, answers.watch[[place]])
        assert np.array_equal(alone.target_outcomes, answers.target_outcomes[[place]])


def test_tower_scores_are_those_of_the_viewers_vector_and_depend_on_the_time_of_the_request(
    release: CandidateRelease, features: list[ViewerFeatures]
) -> None:
    one = release.vectors @ release.viewer_vector(features[3])
    assert np.allclose(tower_scores(release, features)[3], one, atol=1e-4)
    back = replace(features[3], asked_at=features[3].asked_at + 30 * 86_400)
    assert not np.allclose(release.vectors @ release.viewer_vector(back), one, atol=1e-3)


def test_a_system_measures_the_same_by_scores_and_by_its_full_lists() -> None:
    random = np.random.default_rng(4)
    scores = random.random((20, 90)).astype(np.float32)
    watched = tuple(random.permutation(80)[:10] for _ in range(20))
    targets = np.arange(20) % 10 + 80
    ids, none = tuple(map(str, range(20))), np.zeros(90)
    viewers = TestViewers(ids, targets, np.ones(20, bool), watched, targets, none)
    by_scores = of_chunks(lambda part: scores[part], viewers, 90)
    by_lists = of_lists(best_unwatched(scores, watched), viewers)
    assert by_scores.measures(90) == by_lists.measures(90)
    assert by_scores.measures(90)["recall_100"] == 1
    ranks = list_ranks(np.array([[3, 1, -1], [2, 5, 4], [7, -1, -1]]), np.array([1, 4, 9]))
    assert ranks[:2].tolist() == [1, 2]
    assert ranks[2] > 10**9, "a miss"


def test_the_report_of_a_training_has_every_system_and_the_curves(
    trained_home: Home, manifest: Manifest
) -> None:
    report = trained_home.run("trained") / "report"
    metrics = read_json(report, files.METRICS)
    assert set(metrics) >= SYSTEMS
    for system in SYSTEMS - {"ranker"}:
        for name, value in metrics[system].items():
            assert 0 <= value <= 1, (system, name)
            assert manifest.metrics[f"{system}.{name}"] == value
    assert set(read_json(report, files.RECALL)["systems"]) == SYSTEMS - {"ranker"}
    assert set(read_json(report, files.POPULARITY)) == SYSTEMS - {"ranker"} | {"watches"}
    calibrated = read_json(report, files.CALIBRATION)
    assert set(calibrated["bins"]) == {"watch", "like", "finish"}
    for part in ("test", "validation"):
        assert calibrated[part]["watch_predicted_over_observed"] > 0
        assert 0 <= calibrated[part]["like_ece"] < 1
    assert all(read_json(report, files.LEARNING).values())


def test_evaluating_again_measures_the_same_and_with_all_baselines_compares_and_slices(
    trained_home: Home,
    manifest: Manifest,
    viewers: TestViewers,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report, everyone = trained_home.run("trained") / "report", {*BASELINES, "two_tower", "chain"}
    evaluated = evaluate_staged(trained_home, "trained", BASELINES)
    assert set(evaluated.metrics) == everyone | {"ranker"}
    quick = evaluate_staged(trained_home, "trained")
    assert not capsys.readouterr().out, "standard output is for the result alone"
    assert quick.release_id == manifest.release_id
    assert read_measured(trained_home, "trained") == quick, "as it is in the report"
    again = flat(quick.metrics)
    trained = {name: again[name] for name in again if name in manifest.metrics}
    assert trained == pytest.approx({name: manifest.metrics[name] for name in trained})
    kept = read_systems(report, viewers.ids)
    assert set(kept) == everyone, "a quick evaluation keeps what the full one found"
    assert not read_systems(report, ("someone else",))
    compared = read_json(report, files.COMPARISON)
    assert compared["reference"] == "chain"
    assert set(compared["tests"]) == everyone - {"chain"}
    for name, measures in compared["systems"].items():
        assert measures["ndcg_10"]["value"] == pytest.approx(evaluated.metrics[name]["ndcg_10"])
    settings = read_settings(report)
    assert settings is not None
    assert set(settings.baselines) == set(BASELINES), "what each was measured with"
    for cut in read_json(report, files.SLICES).values():
        assert sum(group["n"] for group in cut["groups"]) == len(viewers.ids)


def test_an_auc_that_is_not_defined_is_left_out_so_that_the_report_stays_json(
    answers: ChainAnswers, viewers: TestViewers
) -> None:
    assert {"watch_auc", "like_auc"} <= set(ranker_measures(answers, viewers))
    nobody_likes = replace(viewers, outcomes=np.zeros_like(viewers.outcomes))
    measures = ranker_measures(answers, nobody_likes)
    assert "like_auc" not in measures
    json.dumps(measures, allow_nan=False)


def test_without_a_release_evaluate_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(VireoError, match="vireo train --data nothing"):
        evaluate_staged(Home(tmp_path), "nothing")
    with pytest.raises(VireoError, match="vireo train --data nothing"):
        read_measured(Home(tmp_path), "nothing")


def test_curves_count_places_by_decile_and_hits_up_to_the_size_of_the_catalogue() -> None:
    shares = popularity_shares(np.arange(20)[::-1], np.array([[0, 1, 19], [2, -1, -1]]))
    assert shares == [0.5, 0.25, 0, 0, 0, 0, 0, 0, 0, 0.25]
    curves = recall_curves({"chain": np.array([0, 7])}, videos=30)
    assert curves == {"k": [1, 2, 5, 10, 20], "systems": {"chain": [0.5, 0.5, 0.5, 1.0, 1.0]}}


def test_viewers_are_cut_by_activity_and_targets_by_popularity_and_age() -> None:
    day = pd.Timestamp("2024-01-01", tz="UTC")
    rows: Sequence[tuple[str, str, int, str]] = [
        ("a", "0", 0, "train"),
        ("a", "1", 10, "test"),
        ("b", "0", 0, "train"),
        ("b", "9", 1, "train"),
        ("b", "2", 20, "test"),
    ]
    watches = pd.DataFrame(rows, columns=["viewer_id", "video_id", "time", "part"])
    watches["time"] = day + pd.to_timedelta(watches["time"], "D")
    videos = pd.DataFrame({"video_id": [str(row) for row in range(10)]})
    videos["published"] = pd.Series([pd.NaT, day, *[pd.NaT] * 8], dtype="datetime64[us, UTC]")
    viewers = TestViewers(
        ids=("a", "b"),
        targets=np.array([1, 2]),
        outcomes=np.array([[1], [0]], np.float32),
        watched=(np.array([0]), np.array([0, 9])),
        moments=np.array([10, 20]),
        published=np.zeros(10),
    )
    counts, ranks = np.array([2, 0, 0, 0, 0, 0, 0, 0, 0, 1]), {"chain": np.array([0, 50])}
    cuts = sliced(watches, videos, viewers, counts, ranks)
    assert {
        name: {
            group["name"]: (group["n"], group["systems"]["chain"]["hr_10"]["value"])
            for group in cut["groups"]
        }
        for name, cut in cuts.items()
    } == {
        "activity": {"1 to 1": (1, 1.0), "2 to 2": (1, 0.0)},
        "popularity": {"middle: the next four tenths": (2, 0.5)},
        # The second target's own watch is the first that anyone had of it.
        "age": {"0 to 0 days": (1, 0.0), "10 to 10 days": (1, 1.0)},
    }
