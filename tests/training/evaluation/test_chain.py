from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.builders.watches import watches_frame
from vireo.server.candidate.release import CandidateRelease
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.ranking.release import RankingRelease
from vireo.server.releases.manifest import Manifest
from vireo.training.evaluation import report as files
from vireo.training.evaluation.baselines.registry import BASELINES
from vireo.training.evaluation.baselines.settings import read_settings
from vireo.training.evaluation.chain import (
    ChainAnswers,
    TestViewers,
    features_before_test,
    list_ranks,
    load_test_viewers,
    past_watches,
    run_chain,
    tower_scores,
)
from vireo.training.evaluation.commands import evaluate_staged
from vireo.training.evaluation.ranker import ranker_measures
from vireo.training.evaluation.report import Systems, flat, read_json
from vireo.training.evaluation.systems import best_unwatched, of_chunks, of_lists
from vireo.training.features.publication import of_the_past
from vireo.training.features.statistics import just_before, video_features_at

SYSTEMS = {"popularity", "item_knn", "ease", "two_tower", "chain", "ranker"}


@pytest.fixture(scope="module")
def viewers(trained_watches: pd.DataFrame, release: CandidateRelease) -> TestViewers:
    return load_test_viewers(trained_watches, release.ids)


@pytest.fixture(scope="module")
def answers(
    trained_home: Home,
    trained_watches: pd.DataFrame,
    release: CandidateRelease,
    viewers: TestViewers,
) -> ChainAnswers:
    ranking = RankingRelease.load(release.folder)
    repo = trained_home.features("trained")
    features = features_before_test(trained_watches, repo)
    return run_chain(release, ranking, features, viewers.targets, 30, repo)


def test_every_viewer_with_a_test_watch_is_asked_for(
    trained_watches: pd.DataFrame, viewers: TestViewers, release: CandidateRelease
) -> None:
    test = trained_watches[trained_watches["part"] == "test"]
    assert viewers.ids == tuple(test["viewer_id"])
    assert [release.ids[row] for row in viewers.targets] == test["video_id"].tolist()


def test_past_watches_are_parts_of_one_array() -> None:
    watches = watches_frame({"a": ["x", "y", "z"], "b": ["z"], "c": ["y", "x", "z"]})
    last = ~watches["viewer_id"].duplicated(keep="last")
    watches["part"] = np.where(last, "test", "train")
    mixed = watches.iloc[[4, 0, 5, 3, 1, 6, 2]]
    past = past_watches(mixed, ["x", "y", "z"])

    assert {viewer: rows.tolist() for viewer, rows in past.items()} == {"a": [0, 1], "c": [1, 0]}
    assert list(past) == ["a", "c"]
    assert past["a"].base is past["c"].base is not None
    assert past_watches(watches[last], ["x", "y", "z"]) == {}


def test_features_hold_validation_and_end_before_the_test_watch(
    trained_home: Home,
    trained_watches: pd.DataFrame,
    viewers: TestViewers,
    release: CandidateRelease,
) -> None:
    everyone = features_before_test(trained_watches, trained_home.features("trained"))
    for features, watched, target in zip(everyone, viewers.watched, viewers.targets, strict=True):
        rows = release.rows.find(features.watched_keys)
        assert set(rows) == set(watched)
        assert target not in rows
    assert [features.asked_at for features in everyone] == viewers.moments.tolist()
    assert all(features.history_times[-1] <= features.asked_at for features in everyone)


def test_the_chain_ranks_retrieved_unwatched_videos(
    answers: ChainAnswers, viewers: TestViewers
) -> None:
    assert np.array_equal(np.sort(answers.ranked, axis=1), np.sort(answers.candidates, axis=1))
    for ranked, watched in zip(answers.ranked, viewers.watched, strict=True):
        assert not np.intersect1d(ranked, watched).size
    # The best comes first; those after it give way to diversity, where the release asks for it.
    assert (answers.watch[:, 0] == answers.watch.max(axis=1)).all()
    assert ((answers.target_outcomes > 0) & (answers.target_outcomes < 1)).all()


def test_videos_have_the_features_of_each_requests_time_however_late_the_releases_snapshot_is(
    trained_home: Home,
    trained_watches: pd.DataFrame,
    release: CandidateRelease,
    viewers: TestViewers,
    answers: ChainAnswers,
) -> None:
    repo, ranking = trained_home.features("trained"), RankingRelease.load(release.folder)
    features = features_before_test(trained_watches, repo)

    def asked(table: np.ndarray, places: np.ndarray, repo: Path | None) -> ChainAnswers:
        own = replace(ranking, table=replace(ranking.table, features=table))
        some, targets = [features[place] for place in places], viewers.targets[places]
        candidates, embargo = of_the_past(release)
        embargo.ask(some[0].asked_at, int(targets[0]))
        return run_chain(candidates, own, some, targets, 30, repo)

    everyone, later = np.arange(len(features)), np.asarray(ranking.table.features) + 2
    assert np.array_equal(asked(later, everyone, repo).watch, answers.watch)
    assert not np.allclose(asked(later, everyone, None).watch, answers.watch)
    for place in (viewers.moments.argmin(), viewers.moments.argmax()):
        every, at = np.arange(len(release.ids))[None], just_before(viewers.moments[[place]])
        trained_on = video_features_at(repo, release.ids, every, at)[0]
        alone = asked(trained_on, np.array([place]), None)
        assert np.array_equal(alone.watch, answers.watch[[place]])
        assert np.array_equal(alone.target_outcomes, answers.target_outcomes[[place]])


def test_tower_scores_are_those_that_retrieval_gives(
    trained_home: Home,
    trained_watches: pd.DataFrame,
    release: CandidateRelease,
    answers: ChainAnswers,
) -> None:
    features = features_before_test(trained_watches, trained_home.features("trained"))
    one = release.vectors @ release.viewer_vector(features[3])
    assert np.allclose(tower_scores(release, features)[3], one, atol=1e-4)
    best = answers.candidates[3]
    assert (np.diff(one[best[best >= 0]]) <= 1e-5).all()


def test_a_viewer_who_returns_after_a_month_gets_other_videos(
    trained_home: Home, trained_watches: pd.DataFrame, release: CandidateRelease
) -> None:
    features = features_before_test(trained_watches, trained_home.features("trained"))[3]
    back = replace(features, asked_at=features.asked_at + 30 * 86_400)
    assert not np.allclose(release.viewer_vector(features), release.viewer_vector(back), atol=1e-3)


def test_a_list_ranks_its_target_by_place_and_a_miss_beyond_all() -> None:
    ranks = list_ranks(np.array([[3, 1, -1], [2, 5, 4], [7, -1, -1]]), np.array([1, 4, 9]))
    assert ranks[:2].tolist() == [1, 2]
    assert ranks[2] > 10**9


def test_a_system_measures_the_same_by_scores_and_by_its_full_lists() -> None:
    random = np.random.default_rng(4)
    scores = random.random((20, 90)).astype(np.float32)
    watched = tuple(random.permutation(80)[:10] for _ in range(20))
    targets = np.arange(20) % 10 + 80
    viewers = TestViewers(tuple(map(str, range(20))), targets, np.ones(20, bool), watched, targets)
    by_scores = of_chunks(lambda part: scores[part], viewers, 90)
    by_lists = of_lists(best_unwatched(scores, watched), viewers)
    assert by_scores.measures(90) == by_lists.measures(90)
    assert by_scores.measures(90)["recall_100"] == 1


def test_the_report_of_a_training_has_every_system_and_the_curves(
    trained_home: Home, manifest: Manifest
) -> None:
    report = trained_home.run("trained") / "report"
    metrics = json.loads((report / "metrics.json").read_text())
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
    learning = read_json(report, files.LEARNING)
    assert learning["retrieval"]
    assert learning["ranking"]


def test_evaluating_the_staged_release_again_measures_the_same(
    trained_home: Home, manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated = evaluate_staged(trained_home, "trained")
    assert not capsys.readouterr().out, "standard output is for the result alone"
    assert evaluated.release_id == manifest.release_id
    again = flat(evaluated.metrics)
    trained = {name: manifest.metrics[name] for name in again}
    assert again == pytest.approx(trained)


def test_with_all_baselines_the_report_compares_and_slices_every_system(
    trained_home: Home, viewers: TestViewers
) -> None:
    report = trained_home.run("trained") / "report"
    everyone = {*BASELINES, "two_tower", "chain"}

    evaluated = evaluate_staged(trained_home, "trained", BASELINES)
    evaluate_staged(trained_home, "trained")

    assert set(evaluated.metrics) == everyone | {"ranker"}
    kept = Systems.load(report, viewers.ids)
    assert set(kept.reports) == everyone, "a quick evaluation keeps what the full one found"
    compared = read_json(report, files.COMPARISON)
    assert compared["reference"] == "chain"
    assert set(compared["tests"]) == everyone - {"chain"}
    for name, measures in compared["systems"].items():
        assert measures["ndcg_10"]["value"] == pytest.approx(evaluated.metrics[name]["ndcg_10"])
    settings = read_settings(report)
    assert settings is not None
    assert set(settings.baselines) == set(BASELINES), "what each was measured with"
    slices = read_json(report, files.SLICES)
    for cut in slices.values():
        assert sum(group["n"] for group in cut["groups"]) == len(viewers.ids)
    assert not Systems.load(report, ("someone else",)).reports


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
