"""Baselines, and the settings that are found for them."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from vireo.server.errors import VireoError
from vireo.training.evaluation import baselines as module
from vireo.training.evaluation import tuning
from vireo.training.evaluation.baselines import (
    BASELINES,
    DECLARED,
    QUICK,
    Config,
    EaseConfig,
    Fitter,
    Grid,
    IalsConfig,
    ItemKnnConfig,
    MarkovConfig,
    Past,
    PopularityConfig,
    fitted,
    possible,
)
from vireo.training.evaluation.tuning import (
    SETTINGS_FILE,
    SHIPPED,
    BaselineSettings,
    HeldOut,
    Trial,
    TunedBaselines,
    add_to_report,
    best_of,
    read_settings,
    search,
    tune_baselines,
    tuned_for,
    write_settings,
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


VIDEOS = [f"v{row}" for row in range(30)]


TWO = Past([rows(0, 1, 2), rows(3)], 4)
TUNED = TunedBaselines(
    fingerprint=TWO.fingerprint,
    viewers=2,
    baselines={
        "ease_recency": BaselineSettings(
            chosen={"regularisation": 1000.0, "half_life": 3.0},
            ndcg_10=0.12,
            search="whole grid",
            grid={"half_life": (None, 3.0)},
            tried=(Trial(settings={"regularisation": 1000.0, "half_life": 3.0}, ndcg_10=0.12),),
        ),
        "markov_blend": BaselineSettings(chosen={"steps": (1.0, 0.5), "half_life": None}),
    },
)


def split(histories: dict[str, Sequence[int]]) -> pd.DataFrame:
    """Each viewer's last watch is for test, the two before it for validation."""
    lines = []
    for viewer, watched in histories.items():
        parts = ["train"] * (len(watched) - 3) + ["validation"] * 2 + ["test"]
        for part, row in zip(parts[-len(watched) :], watched, strict=True):
            lines.append((viewer, VIDEOS[row], part))
    return pd.DataFrame(lines, columns=["viewer_id", "video_id", "part"])


def test_two_settings_are_tried_in_every_combination_once_and_the_first_best_is_kept() -> None:
    grid: Grid = {"regularisation": (1.0, 2.0, 3.0), "half_life": (None, 5.0)}
    start, tried = EaseConfig(2.0, 5.0), list[Config]()

    def measure(config: Config) -> float:
        tried.append(config)
        return float(config == EaseConfig(3.0, None))

    found = search(start, grid, measure)
    assert tried == list(found)
    assert tried[0] == start
    assert set(found) == {EaseConfig(a, b) for a in (1.0, 2.0, 3.0) for b in (None, 5.0)}
    assert best_of(found) == EaseConfig(3.0, None)


def test_more_settings_are_tried_one_at_a_time_once_each_and_the_first_best_is_kept() -> None:
    grid: Grid = {
        "factors": (32, 64, 128, 256),
        "half_life": (None, 10.0, 3.0),
        "alpha": (1.0, 3.0),
    }
    start, tried = IalsConfig(half_life=10.0, alpha=1.0, factors=256), list[Config]()

    def measure(config: Config) -> float:
        assert isinstance(config, IalsConfig)
        tried.append(config)
        # At the half-life of the start more factors seem to help than do at the best one.
        best_factors = 64 if config.half_life == 3.0 else 128
        lost = abs(math.log2(config.factors / best_factors) / 10)
        return (config.half_life == 3.0) + (config.alpha == 3.0) - lost

    found = search(start, grid, measure)
    assert best_of(found) == IalsConfig(half_life=3.0, alpha=3.0, factors=64)
    assert tried == list(found)
    assert tried[0] == start
    assert len(found) < 24
    assert best_of(search(start, grid, lambda _: 0.5)) == start


def test_the_last_watch_before_the_test_is_held_out_of_those_who_have_validation() -> None:
    past = {"a": rows(1, 2, 3), "b": rows(4), "c": rows(5, 6, 7)}
    held_out = HeldOut.of(past, frozenset({"c", "a"}), 9)
    assert [list(each) for each in held_out.past.histories] == [[1, 2], [4], [5, 6]]
    assert [list(each) for each in held_out.watched] == [[1, 2], [5, 6]]
    assert held_out.targets.tolist() == [3, 7]


def test_every_baseline_gets_its_best_on_validation_and_the_test_watch_is_never_seen() -> None:
    random = np.random.default_rng(0)
    histories = {f"u{viewer}": random.permutation(29)[:8].tolist() for viewer in range(40)}
    watches = split(histories)
    moved = watches.copy()
    moved.loc[moved["part"] == "test", "video_id"] = "v29"
    found = tune_baselines(watches, VIDEOS, Console(quiet=True))
    again = tune_baselines(moved, VIDEOS, Console(quiet=True))
    assert tuple(found.baselines) == BASELINES
    assert found.viewers == 40
    assert (found.baselines, found.fingerprint) == (again.baselines, again.fingerprint)
    for name, settings in found.baselines.items():
        assert set(settings.grid) == set(DECLARED[name].grid)
        assert settings.ndcg_10 == max(trial.ndcg_10 for trial in settings.tried)
        assert settings.chosen in [trial.settings for trial in settings.tried]
    past = [np.array(watched[:-2], np.int64) for watched in histories.values()]
    targets = rows(*(watched[-2] for watched in histories.values()))
    by_hand = HeldOut(Past(past, len(VIDEOS)), tuple(past), targets)
    measured = by_hand.ndcg_10(found.configs()["ease_recency"].fit(Fitter(by_hand.past)))
    assert measured == pytest.approx(found.baselines["ease_recency"].ndcg_10)


def test_settings_tuned_in_this_home_override_the_checkouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "SHIPPED", tmp_path / "shipped")
    assert not tuned_for(TWO, tmp_path, "films").baselines
    shipped = TUNED.model_copy(update={"viewers": 7})
    write_settings(tmp_path / "shipped" / "films", shipped)
    assert tuned_for(TWO, tmp_path, "films") == shipped
    write_settings(tmp_path, TUNED)
    assert tuned_for(TWO, tmp_path, "films") == read_settings(tmp_path) == TUNED
    assert not tuned_for(TWO, tmp_path / "elsewhere", "others").baselines
    assert TUNED.configs() == {
        "ease_recency": EaseConfig(1000.0, 3.0),
        "markov_blend": MarkovConfig(steps=(1.0, 0.5), half_life=None),
    }
    for other in (
        Past([rows(0, 1), rows(2, 3)], 4),
        Past([rows(0, 2, 1), rows(3)], 4),
        Past(TWO.histories, 5),
    ):
        assert not tuned_for(other, tmp_path, "films").baselines


@pytest.mark.parametrize(
    "content", ["{", json.dumps({"fingerprint": "a", "baselines": {"ease": {"chosen": {"l2": 1}}}})]
)
def test_a_damaged_file_and_one_of_another_build_are_refused_with_the_way_out(
    content: str, tmp_path: Path
) -> None:
    (tmp_path / SETTINGS_FILE).write_text(content)
    with pytest.raises(VireoError, match="vireo evaluate study baselines"):
        tuned_for(TWO, tmp_path, "films")


def test_a_report_has_the_settings_of_all_that_were_measured_tuned_or_not(tmp_path: Path) -> None:
    add_to_report(tmp_path, TunedBaselines(fingerprint=TWO.fingerprint).of(["ease"]))
    add_to_report(tmp_path, TUNED.of(["ease_recency"]))
    found = read_settings(tmp_path)
    assert found is not None
    assert set(found.baselines) == {"ease", "ease_recency"}
    assert found.configs()["ease"] == DECLARED["ease"].start
    assert [found.baselines[name].ndcg_10 for name in ("ease", "ease_recency")] == [None, 0.12]
    add_to_report(tmp_path, TunedBaselines(fingerprint="of other data").of(["ease"]))
    later = read_settings(tmp_path)
    assert later is not None
    assert set(later.baselines) == {"ease"}


@pytest.mark.parametrize("dataset", ["ml-100k", "ml-1m"])
def test_what_the_checkout_has_is_the_best_of_what_was_tried(dataset: str) -> None:
    found = read_settings(SHIPPED / dataset)
    assert found is not None
    assert tuple(found.baselines) == BASELINES
    for name, settings in found.baselines.items():
        assert set(settings.grid) == set(DECLARED[name].grid)
        best = max(settings.tried, key=lambda trial: trial.ndcg_10)
        assert (settings.chosen, settings.ndcg_10) == (best.settings, best.ndcg_10)
