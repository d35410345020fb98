from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from vireo.training.evaluation.baselines.ease import EaseConfig
from vireo.training.evaluation.baselines.ials import IalsConfig
from vireo.training.evaluation.baselines.past import Grid, Past
from vireo.training.evaluation.baselines.registry import (
    BASELINES,
    DECLARED,
    Config,
    Fitter,
    changed,
)
from vireo.training.evaluation.baselines.tuning import (
    HeldOut,
    best_of,
    search,
    tune_baselines,
)

VIDEOS = [f"v{row}" for row in range(30)]


def rows(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def split(histories: dict[str, Sequence[int]]) -> pd.DataFrame:
    """Each viewer's last watch is for test, the two before it for validation."""
    lines = []
    for viewer, watched in histories.items():
        parts = ["train"] * (len(watched) - 3) + ["validation"] * 2 + ["test"]
        for part, row in zip(parts[-len(watched) :], watched, strict=True):
            lines.append((viewer, VIDEOS[row], part))
    return pd.DataFrame(lines, columns=["viewer_id", "video_id", "part"])


@pytest.mark.parametrize("name", BASELINES)
def test_the_start_of_each_search_is_in_its_grid(name: str) -> None:
    start, grid = DECLARED[name].start, DECLARED[name].grid
    for setting, values in grid.items():
        assert getattr(start, setting) in values
        assert len(set(values)) == len(values)
        for value in values:
            assert getattr(changed(start, {setting: value}), setting) == value


def test_grids_hold_the_short_half_lives_that_beat_the_settings_of_before() -> None:
    assert {"regularisation", "half_life"} == set(DECLARED["ease_recency"].grid)
    assert 1000.0 in DECLARED["ease_recency"].grid["regularisation"]
    assert 3.0 in DECLARED["ease_recency"].grid["half_life"]
    known = {"half_life": 3.0, "regularisation": 10.0, "alpha": 1.0, "factors": 128}
    for setting, value in known.items():
        assert value in DECLARED["ials"].grid[setting]


def test_two_settings_are_tried_in_every_combination_and_each_once() -> None:
    grid: Grid = {"regularisation": (1.0, 2.0, 3.0), "half_life": (None, 5.0)}
    tried: list[Config] = []

    def measure(config: Config) -> float:
        tried.append(config)
        return float(config == EaseConfig(3.0, None))

    found = search(EaseConfig(2.0, 5.0), grid, measure)

    assert tried[0] == EaseConfig(2.0, 5.0)
    assert tried == list(found)
    assert set(found) == {EaseConfig(a, b) for a in (1.0, 2.0, 3.0) for b in (None, 5.0)}
    assert best_of(found) == EaseConfig(3.0, None)


def test_more_settings_are_tried_one_at_a_time_and_then_those_beside_the_best() -> None:
    grid: Grid = {
        "factors": (32, 64, 128, 256),
        "half_life": (None, 10.0, 3.0),
        "alpha": (1.0, 3.0),
    }

    def measure(config: Config) -> float:
        assert isinstance(config, IalsConfig)
        # At the half-life of the start more factors seem to help than do at the best one.
        best_factors = 64 if config.half_life == 3.0 else 128
        return (
            (config.half_life == 3.0)
            + (config.alpha == 3.0)
            - abs(math.log2(config.factors / best_factors) / 10)
        )

    found = search(IalsConfig(half_life=10.0, alpha=1.0, factors=256), grid, measure)

    assert best_of(found) == IalsConfig(half_life=3.0, alpha=3.0, factors=64)
    assert len(found) == 12, "of 24"


def test_of_settings_that_measure_the_same_the_first_is_kept() -> None:
    grid: Grid = {"half_life": (None, 10.0)}
    start = EaseConfig(half_life=10.0)
    assert best_of(search(start, grid, lambda _: 0.5)) == start


def test_the_last_watch_before_the_test_is_held_out_of_those_who_have_validation() -> None:
    past = {"a": rows(1, 2, 3), "b": rows(4), "c": rows(5, 6, 7)}

    held_out = HeldOut.of(past, frozenset({"c", "a"}), 9)

    assert [list(each) for each in held_out.past.histories] == [[1, 2], [4], [5, 6]]
    assert [list(each) for each in held_out.watched] == [[1, 2], [5, 6]]
    assert held_out.targets.tolist() == [3, 7]


def test_of_a_large_catalogue_fewer_viewers_are_asked_and_alike_each_time() -> None:
    past = {str(viewer): rows(viewer, viewer + 1) for viewer in range(100)}
    few = [HeldOut.of(past, frozenset(past), 10_000_000) for _ in range(2)]
    assert few[0].targets.tolist() == few[1].targets.tolist()
    assert len(few[0].targets) == 5
    assert len(few[0].past.histories) == 100


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
    assert found.baselines == again.baselines
    assert found.fingerprint == again.fingerprint
    for name, settings in found.baselines.items():
        assert set(settings.grid) == set(DECLARED[name].grid)
        assert settings.ndcg_10 == max(trial.ndcg_10 for trial in settings.tried)
        assert settings.chosen in [trial.settings for trial in settings.tried]
    past = [np.array(watched[:-2], np.int64) for watched in histories.values()]
    targets = rows(*(watched[-2] for watched in histories.values()))
    by_hand = HeldOut(Past(past, len(VIDEOS)), tuple(past), targets)
    chosen = found.configs()["ease_recency"]
    measured = by_hand.ndcg_10(Fitter(by_hand.past).fit(chosen))
    assert measured == pytest.approx(found.baselines["ease_recency"].ndcg_10)
