"""What viewers of a simulated world tire of, found again in what they were shown."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from scipy.special import expit, logit

from vireo.server.features.activity import SHOWN_SECONDS
from vireo.server.features.fatigue import times_shown
from vireo.training.ranking.fatigue import fitted_strength

DAY = 86_400
SLATES, VIDEOS, PAGE = 40, 12, 6


class Shown(NamedTuple):
    """What `fitted_strength` takes."""

    watch: np.ndarray
    position: np.ndarray
    before: np.ndarray
    played: np.ndarray


def world(
    strength: float, viewers: int = 220, seed: int = 0, bias: float = 0.0, scale: float = 1.0
) -> Shown:
    """Slates of some of few videos, within a month, to viewers who tire of them.

    Positions further down are played less by `bias`; the ranker's logits are `scale` times those of
    the world without either.
    """
    chance = np.random.default_rng(seed)
    rows = []
    for _ in range(viewers):
        watch = expit(chance.normal(-1.5, 1.0, VIDEOS))
        shown: list[tuple[int, int]] = []
        for at in np.sort(chance.integers(0, 30 * DAY, SLATES)).tolist():
            page = chance.permutation(VIDEOS)[:PAGE]
            page = page[np.argsort(-watch[page])] if bias else page
            keys, times = (np.array([each[part] for each in shown], np.int64) for part in (0, 1))
            left = np.log1p(times_shown(page, keys, times, at))
            seen = chance.random(PAGE) < 0.8
            lower = bias * np.log(np.arange(1, PAGE + 1))
            played = seen & (
                chance.random(PAGE) < expit(logit(watch[page]) - strength * left - lower)
            )
            ranked = expit(scale * logit(watch[page]))
            position, known = np.arange(1, PAGE + 1), np.where(seen, played, np.nan)
            rows.append(np.stack([ranked, position, np.expm1(left), known]))
            shown += [(video, at - at % SHOWN_SECONDS) for video in page[seen].tolist()]
    return Shown(*np.concatenate(rows, 1))


@pytest.mark.parametrize("bias", [0.0, 1.0])
@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_a_known_strength_is_found_whatever_the_positions_do(strength: float, bias: float) -> None:
    assert fitted_strength(*world(strength, bias=bias)) == pytest.approx(strength, abs=0.1)


def test_the_strength_is_in_units_of_the_rankers_logits() -> None:
    assert fitted_strength(*world(0.4, scale=2.0)) == pytest.approx(0.8, abs=0.15)


def test_who_does_not_tire_has_no_fatigue() -> None:
    assert max(fitted_strength(*world(0.0, seed=seed)) for seed in (1, 2)) < 0.05


def test_who_likes_repetition_has_no_fatigue() -> None:
    assert fitted_strength(*world(-1.0, viewers=60)) == 0


def test_too_few_repetitions_or_plays_are_fitted_to_nothing() -> None:
    assert fitted_strength(*(each[:200] for each in world(1.0, viewers=1))) == 0
    shown = world(1.0, viewers=10)
    nothing = np.zeros(len(shown.played))
    assert fitted_strength(*shown._replace(played=nothing)) == 0
    assert fitted_strength(*shown._replace(watch=nothing * np.nan)) == 0
