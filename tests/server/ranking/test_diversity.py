from dataclasses import replace

import numpy as np
import pytest

from tests.builders.ranking import of_rows
from vireo.server.recommend.ranking.diversity import RERANK_WINDOW, diverse_order
from vireo.server.recommend.ranking.pipeline import RankedCandidates, RankingPipeline
from vireo.server.recommend.ranking.release import RankingRelease

TWINS = np.array([[1, 0], [2, 0], [0, 1]], np.float32)
SCORES = np.array([0.5, 0.4, 0.3], np.float32)


def rank(
    release: RankingRelease, strength: float, rows: list[int], page_size: int = 40
) -> RankedCandidates:
    weights = release.manifest.score_weights.with_diversity(strength)
    manifest = release.manifest.model_copy(update={"score_weights": weights})
    pipeline = RankingPipeline(replace(release, manifest=manifest))
    return pipeline.rank(of_rows(rows, page_size))


def test_the_penalty_is_the_strength_times_the_nearest_of_those_chosen() -> None:
    # Of 1 and 2 after 0: log .4 - s against log .3, which are equal at s = log(4/3).
    turn = np.log(4 / 3)
    assert diverse_order(SCORES, TWINS, turn - 0.01, 2).tolist() == [0, 1]
    assert diverse_order(SCORES, TWINS, turn + 0.01, 2).tolist() == [0, 2]


def test_scores_of_zero_and_vectors_of_zero_are_ordered_too() -> None:
    scores = np.array([0.5, 0, 0], np.float32)
    assert sorted(diverse_order(scores, np.zeros((3, 2), np.float32), 2.0, 3)) == [0, 1, 2]


def test_no_strength_is_the_order_of_the_scores(release: RankingRelease) -> None:
    ranked = rank(release, 0.0, list(range(40)))
    assert (np.diff(ranked.scores) <= 0).all()


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_a_shorter_page_is_a_prefix_of_a_longer_one(
    release: RankingRelease, strength: float
) -> None:
    longest = rank(release, strength, list(range(40))).keys
    for size in (1, 2, 7, 39):
        page = rank(release, strength, list(range(40)), size).keys
        np.testing.assert_array_equal(page, longest[:size])


def test_diversity_reorders_the_window_alone(
    release: RankingRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert RERANK_WINDOW == 100
    monkeypatch.setattr("vireo.server.recommend.ranking.diversity.RERANK_WINDOW", 10)
    plain = rank(release, 0.0, list(range(40))).keys
    diverse = rank(release, 3.0, list(range(40))).keys
    assert set(diverse[:10]) == set(plain[:10])
    assert diverse[:10].tolist() != plain[:10].tolist()
    np.testing.assert_array_equal(diverse[10:], plain[10:])


def test_unknown_candidates_stay_last(release: RankingRelease) -> None:
    ranked = rank(release, 5.0, [-5, 3, -6, 4, 9])
    assert sorted(ranked.rows[:3].tolist()) == [3, 4, 9]
    assert ranked.rows[3:].tolist() == [-1, -1]
    assert ranked.scores[3:].tolist() == [0, 0]


def test_scores_and_tasks_stay_those_of_the_video(release: RankingRelease) -> None:
    plain, diverse = (rank(release, strength, list(range(40))) for strength in (0.0, 1.0))
    by_key = dict(zip(plain.keys.tolist(), plain.scores.tolist(), strict=True))
    assert [by_key[key] for key in diverse.keys.tolist()] == diverse.scores.tolist()
