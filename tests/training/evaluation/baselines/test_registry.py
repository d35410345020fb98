from __future__ import annotations

import warnings

import numpy as np
import pytest

from vireo.training.evaluation.baselines import item_knn, registry
from vireo.training.evaluation.baselines.ease import EaseConfig
from vireo.training.evaluation.baselines.ials import IalsConfig
from vireo.training.evaluation.baselines.item_knn import ItemKnnConfig
from vireo.training.evaluation.baselines.markov_blend import MarkovBlend, MarkovConfig
from vireo.training.evaluation.baselines.past import Past
from vireo.training.evaluation.baselines.popularity import Popularity, PopularityConfig
from vireo.training.evaluation.baselines.registry import (
    BASELINES,
    QUICK,
    Config,
    Fitter,
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
        scores = baseline.scores([rows(0), rows(3, 4), rows()])

    assert scores.shape == (3, 6)
    assert scores.dtype == np.float32
    assert scores[0, [1, 2]].min() > scores[0, [3, 4, 5]].max()
    assert scores[1, 5] > scores[1, [0, 1, 2]].max()
    assert not scores[2].any()


def test_popularity_scores_every_viewer_alike() -> None:
    [(_, baseline)] = fitted(["popularity"], PAST)

    assert baseline.scores([rows(), rows(1)]).tolist() == [[200, 200, 200, 201, 200, 200]] * 2
    assert baseline.scores([rows()]).dtype == np.float32


def test_with_a_half_life_what_viewers_watched_lately_is_popular() -> None:
    past = Past([rows(0, 1, 2), rows(2, 1)], 3)
    scores = Popularity(past, PopularityConfig(half_life=1.0)).scores([rows()])
    assert scores.tolist() == [[0.25, 1.5, 1.5]]


def test_each_baseline_has_the_settings_that_it_is_given() -> None:
    given: dict[str, Config] = {
        "popularity": PopularityConfig(half_life=1.0),
        "item_knn": ItemKnnConfig(neighbours=1, half_life=1.0),
        "ease_recency": EaseConfig(half_life=0.1),
        "ials": IalsConfig(half_life=0.1, factors=2),
        "markov_blend": MarkovConfig(weight=100.0),
    }
    asked = [rows(0, 4)]

    for name, config in given.items():
        [(_, started)] = fitted([name], PAST)
        [(_, changed)] = fitted([name], PAST, settings=given)
        own = Fitter(PAST).fit(config).scores(asked)
        assert np.array_equal(changed.scores(asked), own), name
        assert not np.allclose(changed.scores(asked), started.scores(asked)), name


def test_baselines_too_large_for_the_catalogue_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "MAX_CUBIC_VIDEOS", 5)
    names = [name for name, _ in fitted(BASELINES, PAST)]
    assert names == ["popularity", "item_knn", "ials"]


def test_every_evaluation_has_popularity_and_item_knn_whatever_the_size() -> None:
    assert possible(QUICK, 10_000_000) == ["popularity", "item_knn"]


def test_in_a_large_catalogue_item_knn_keeps_fewer_neighbours_of_each_video(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def reached() -> int:
        [(_, baseline)] = fitted(["item_knn"], PAST)
        return int(np.count_nonzero(baseline.scores([rows(0)])))

    assert reached() == 3
    monkeypatch.setattr(item_knn, "MAX_NEIGHBOURS", 6)
    assert reached() == 2, "itself and one other"


def test_a_catalogue_too_large_for_ease_needs_no_matrix_of_watches() -> None:
    past = Past([rows(0, 1), rows(1, 2)], 3)
    assert list(fitted(["popularity"], past))
    assert "matrix" not in vars(past), "held for as long as the past is"


def test_the_blend_adds_what_followed_the_last_watch_and_the_one_before() -> None:
    class Nothing:
        def scores(self, histories: list[np.ndarray]) -> np.ndarray:
            return np.zeros((len(histories), 4), np.float32)

    past = Past([rows(0, 1, 2), rows(0, 1, 3), rows(1, 3)], 4)
    prior, weight = 400.0, 6.0
    config = MarkovConfig(weight=weight, prior=prior, steps=(1.0, 0.6, 0.4))
    blend = MarkovBlend(past, Nothing(), config)  # type: ignore[arg-type]

    scores = blend.scores([rows(0, 1), rows(1), rows()])

    one_step = np.array([0, 0, 1, 2]) / (3 + prior)
    two_steps = np.array([0, 0, 1, 1]) / (2 + prior)
    assert scores[0] == pytest.approx(weight * (one_step + 0.6 * two_steps))
    assert scores[1] == pytest.approx(weight * one_step)
    assert not scores[2].any()
