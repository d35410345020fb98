from __future__ import annotations

import warnings

import numpy as np
import pytest

from vireo.training.evaluation import baselines as module
from vireo.training.evaluation.baselines import (
    BASELINES,
    QUICK,
    Config,
    EaseConfig,
    Fitter,
    IalsConfig,
    ItemKnnConfig,
    MarkovConfig,
    Past,
    PopularityConfig,
    fitted,
    possible,
)


def rows(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


PAST = Past([rows(0, 1, 2)] * 200 + [rows(3, 4, 5)] * 200 + [rows(3)], 6)


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "popularity"])
def test_each_baseline_prefers_videos_watched_together(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [(_, baseline)] = fitted([name], PAST)
        scores = baseline([rows(0), rows(3, 4), rows()])
    assert scores.shape == (3, 6)
    assert scores.dtype == np.float32
    assert scores[0, [1, 2]].min() > scores[0, [3, 4, 5]].max()
    assert scores[1, 5] > scores[1, [0, 1, 2]].max()
    assert not scores[2].any()


def test_popularity_scores_every_viewer_alike_by_all_or_by_the_last_watches() -> None:
    [(_, baseline)] = fitted(["popularity"], PAST)
    assert baseline([rows(), rows(1)]).tolist() == [[200, 200, 200, 201, 200, 200]] * 2
    past = Fitter(Past([rows(0, 1, 2), rows(2, 1)], 3))
    assert PopularityConfig(half_life=1.0).fit(past)([rows()]).tolist() == [[0.25, 1.5, 1.5]]


def test_with_recency_a_watch_one_half_life_back_says_half_as_much() -> None:
    fitter = Fitter(PAST)
    weights = fitter.ease(300.0)
    scores = EaseConfig(300.0, half_life=2.0).fit(fitter)([rows(3, 0, 1)])
    expected = weights[1] + 0.5**0.5 * weights[0] + 0.5 * weights[3]
    assert scores[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("popularity", PopularityConfig(half_life=1.0)),
        ("item_knn", ItemKnnConfig(neighbours=1, half_life=1.0)),
        ("ease_recency", EaseConfig(half_life=0.1)),
        ("ials", IalsConfig(half_life=0.1, factors=2)),
        ("markov_blend", MarkovConfig(weight=100.0)),
    ],
)
def test_each_baseline_has_the_settings_that_it_is_given(name: str, config: Config) -> None:
    [(_, started)] = fitted([name], PAST)
    [(_, changed)] = fitted([name], PAST, settings={name: config})
    asked = [rows(0, 4)]
    assert np.array_equal(changed(asked), config.fit(Fitter(PAST))(asked))
    assert not np.allclose(changed(asked), started(asked))


def test_what_is_too_large_for_the_catalogue_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def reached() -> int:
        [(_, baseline)] = fitted(["item_knn"], PAST)
        return int(np.count_nonzero(baseline([rows(0)])))

    assert possible(QUICK, 10_000_000) == ["popularity", "item_knn"]
    assert reached() == 3
    monkeypatch.setattr(module, "MAX_NEIGHBOURS", 6)
    assert reached() == 2, "itself and one other"
    monkeypatch.setattr(module, "MAX_CUBIC_VIDEOS", 5)
    assert [name for name, _ in fitted(BASELINES, PAST)] == ["popularity", "item_knn", "ials"]
    past = Past([rows(0, 1), rows(1, 2)], 3)
    assert list(fitted(["popularity"], past))
    assert "matrix" not in vars(past), "held for as long as the past is"


def test_the_blend_adds_what_followed_the_last_watch_and_the_one_before() -> None:
    fitter = Fitter(Past([rows(0, 1, 2), rows(0, 1, 3), rows(1, 3)], 4))
    prior, weight, asked = 400.0, 6.0, [rows(0, 1), rows(1), rows()]
    config = MarkovConfig(weight, prior, (1.0, 0.6, 0.4), None, 500.0)
    scores = config.fit(fitter)(asked) - EaseConfig(500.0).fit(fitter)(asked)
    one_step = np.array([0, 0, 1, 2]) / (3 + prior)
    two_steps = np.array([0, 0, 1, 1]) / (2 + prior)
    assert scores[0] == pytest.approx(weight * (one_step + 0.6 * two_steps), rel=1e-4)
    assert scores[1] == pytest.approx(weight * one_step, rel=1e-4)
    assert not scores[2].any()
