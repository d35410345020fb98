"""Finds each baseline's best settings on validation.

Every viewer's last watch before the test is held out, the baselines are fitted on all before it,
and rank all that the viewer hadn't watched by then: the protocol of the test, one watch earlier.
A grid of one or two settings is searched whole. A larger one is searched one setting at a time, in
the declared order, and each setting kept at its best: in the first round at all its values, in
later ones at those beside the best so far, until a round changes nothing, MAX_ROUNDS at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Literal

import numpy as np
import pandas as pd

from training.evaluation.baselines.past import Baseline, Grid, Int64Array, Past, Setting
from training.evaluation.baselines.registry import (
    BASELINES,
    DECLARED,
    Config,
    Fitter,
    changed,
    possible,
)
from training.evaluation.baselines.settings import BaselineSettings, Trial, TunedBaselines
from training.evaluation.chain import past_watches
from training.evaluation.full_ranking import full_ranking
from training.evaluation.metrics import ndcg

MAX_ROUNDS = 5
WHOLE = 2
"""How many settings a grid may have to be searched whole."""
MAX_SCORES = 50_000_000
"""Scores for each setting that is tried: of a larger catalogue fewer viewers are asked."""
_CHUNK_SCORES = 20_000_000
"""Scores held at a time."""


@dataclass(frozen=True)
class HeldOut:
    """The last watch of each viewer before the test, and what the baselines may know."""

    past: Past
    """Without the held-out watches."""
    watched: tuple[Int64Array, ...]
    """Rows that each viewer had watched before, oldest first."""
    targets: Int64Array
    """Row of each held-out video, int64[v]."""

    @staticmethod
    def of(past: Mapping[str, Int64Array], viewers: frozenset[str], videos: int) -> HeldOut:
        """Hold out a watch of each viewer who has one for validation.

        Args:
            past: rows watched before the test by viewer, oldest first.
            viewers: those who have watches for validation.
            videos: size of the catalogue.
        """
        asked = sorted(viewers)
        limit = max(1, MAX_SCORES // max(videos, 1))
        if len(asked) > limit:
            kept = np.random.default_rng(0).choice(len(asked), limit, replace=False)
            asked = [asked[place] for place in sorted(kept)]
        before = [rows[:-1] if viewer in viewers else rows for viewer, rows in past.items()]
        return HeldOut(
            Past(before, videos),
            tuple(past[viewer][:-1] for viewer in asked),
            np.array([past[viewer][-1] for viewer in asked], np.int64),
        )

    def ndcg_10(self, baseline: Baseline) -> float:
        """Return a fitted baseline's NDCG@10 on the held-out watches."""
        return ndcg(np.concatenate([np.empty(0, np.int64), *self._ranks(baseline)]), 10)

    def _ranks(self, baseline: Baseline) -> Iterator[Int64Array]:
        size = max(1, _CHUNK_SCORES // max(self.past.videos, 1))
        for start in range(0, len(self.targets), size):
            part = slice(start, start + size)
            watched = self.watched[part]
            yield full_ranking(baseline.scores(watched), watched, self.targets[part])


def tune_baselines(
    watches: pd.DataFrame,
    video_ids: list[str],
    trying: Callable[[str, Config], None] = lambda _name, _config: None,
) -> TunedBaselines:
    """Tune every baseline that the catalogue isn't too large for.

    Args:
        watches: the split, as in `training.features.watches.WATCHES`.
        video_ids: the catalogue.
        trying: called with a baseline's name and settings before they are tried.
    """
    started = time.process_time()
    past = past_watches(watches, video_ids)
    viewers = frozenset(watches.loc[watches["part"] == "validation", "viewer_id"])
    held_out = HeldOut.of(past, viewers, len(video_ids))
    fitter = Fitter(held_out.past)
    found: dict[str, BaselineSettings] = {}
    for name in possible(BASELINES, len(video_ids)):

        def measured(config: Config, name: str = name) -> float:
            trying(name, config)
            return held_out.ndcg_10(fitter.fit(config))

        start, grid = DECLARED[name].start, DECLARED[name].grid
        found[name] = _settings(grid, search(start, grid, measured))
    return TunedBaselines(
        fingerprint=Past(list(past.values()), len(video_ids)).fingerprint,
        viewers=len(held_out.targets),
        cpu_seconds=round(time.process_time() - started, 1),
        baselines=found,
    )


def search(start: Config, grid: Grid, measure: Callable[[Config], float]) -> dict[Config, float]:
    """Try settings from a grid, the start first, and return what each measured.

    Args:
        start: where to begin.
        grid: values of each setting that isn't left as it is in `start`.
        measure: the larger, the better; called once for each of the settings.
    """
    found: dict[Config, float] = {}

    def consider(config: Config) -> None:
        if config not in found:
            found[config] = measure(config)

    consider(start)
    if _search_of(grid) == "whole grid":
        for together in product(*grid.values()):
            consider(changed(start, dict(zip(grid, together, strict=True))))
        return found
    for place in range(MAX_ROUNDS):
        before = best_of(found)
        for name, values in grid.items():
            around = best_of(found)
            for value in values if place == 0 else _beside(values, getattr(around, name)):
                consider(changed(around, {name: value}))
        if best_of(found) == before:
            break
    return found


def _beside(values: Sequence[Setting], value: Setting) -> Sequence[Setting]:
    place = values.index(value)
    return values[max(place - 1, 0) : place + 2]


def best_of(found: Mapping[Config, float]) -> Config:
    """Return the settings that measured most, of equal ones those that were tried first."""
    return max(found, key=found.__getitem__)


def _search_of(grid: Grid) -> Literal["whole grid", "one setting at a time"]:
    return "whole grid" if len(grid) <= WHOLE else "one setting at a time"


def _settings(grid: Grid, found: Mapping[Config, float]) -> BaselineSettings:
    best = best_of(found)
    return BaselineSettings(
        chosen=asdict(best),
        ndcg_10=found[best],
        search=_search_of(grid),
        grid={name: tuple(values) for name, values in grid.items()},
        tried=tuple(
            Trial(settings=asdict(config), ndcg_10=ndcg_10) for config, ndcg_10 in found.items()
        ),
    )
