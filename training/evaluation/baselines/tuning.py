"""Search for each baseline's best settings on validation.

The protocol is that of the test, one watch earlier: every viewer's last watch before the test is
held out, and baselines fitted on all watches before it rank the videos not watched by then. A grid
of one or two settings is searched whole; a larger one by coordinate search in the declared order.
Its first round tries all values of a setting, later ones the neighbours of the best so far, until a
round changes nothing or MAX_ROUNDS are done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Literal

import numpy as np
import pandas as pd
from rich.console import Console

from vireo.server.arrays import Int64Array
from vireo.training.evaluation.baselines.past import Baseline, Grid, Past, Setting
from vireo.training.evaluation.baselines.registry import (
    BASELINES,
    DECLARED,
    Config,
    Fitter,
    changed,
    possible,
)
from vireo.training.evaluation.baselines.settings import BaselineSettings, Trial, TunedBaselines
from vireo.training.evaluation.chain import past_watches
from vireo.training.evaluation.full_ranking import full_ranking, viewer_chunks
from vireo.training.evaluation.metrics import ndcg
from vireo.training.heartbeat import Bars

MAX_ROUNDS = 5
MAX_WHOLE = 2
"""Maximum settings of a grid that is searched whole."""
MAX_SCORES = 50_000_000
"""Maximum scores for each trial; viewers are sampled to keep it."""


@dataclass(frozen=True)
class HeldOut:
    """Each viewer's last watch before the test, and what baselines may know."""

    past: Past
    """Without the held-out watches."""
    watched: tuple[Int64Array, ...]
    """Rows that each viewer had watched before, oldest first."""
    targets: Int64Array
    """Row of each held-out video, int64[v]."""

    @staticmethod
    def of(past: Mapping[str, Int64Array], viewers: frozenset[str], videos: int) -> HeldOut:
        """Hold out the last watch of `viewers`, who have watches for validation.

        `past` has the rows watched before the test by viewer, oldest first.
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
        ranks = [np.empty(0, np.int64)]
        for part in viewer_chunks(len(self.targets), self.past.videos):
            watched = self.watched[part]
            ranks.append(full_ranking(baseline.scores(watched), watched, self.targets[part]))
        return ndcg(np.concatenate(ranks), 10)


def tune_baselines(watches: pd.DataFrame, video_ids: list[str], console: Console) -> TunedBaselines:
    """Tune every baseline that is possible for the size of the catalogue, behind a progress bar.

    Args:
        watches: the split, as in `vireo.training.features.watches.WATCHES`.
        video_ids: the catalogue.
        console: where the bar is shown.
    """
    started = time.process_time()
    past = past_watches(watches, video_ids)
    viewers = frozenset(watches.loc[watches["part"] == "validation", "viewer_id"])
    held_out = HeldOut.of(past, viewers, len(video_ids))
    fitter = Fitter(held_out.past)
    found: dict[str, BaselineSettings] = {}
    with Bars(console=console, transient=True) as bars:
        for name in bars.track(possible(BASELINES, len(video_ids)), description="tuning"):
            bars.update(bars.task_ids[0], description=f"tuning {name}")
            declared = DECLARED[name]
            tried = search(
                declared.start,
                declared.grid,
                lambda config: held_out.ndcg_10(fitter.fit(config)),
            )
            found[name] = _settings(declared.grid, tried)
    return TunedBaselines(
        fingerprint=Past(list(past.values()), len(video_ids)).fingerprint,
        viewers=len(held_out.targets),
        cpu_seconds=round(time.process_time() - started, 1),
        baselines=found,
    )


def search(start: Config, grid: Grid, measure: Callable[[Config], float]) -> dict[Config, float]:
    """Return what each tried configuration measured, in order of trial, `start` first.

    `measure` is called once for each; larger is better. Settings outside the grid stay as they are.
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
    """Return the configuration that measured best, the first tried of equal ones."""
    return max(found, key=found.__getitem__)


def _search_of(grid: Grid) -> Literal["whole grid", "one setting at a time"]:
    return "whole grid" if len(grid) <= MAX_WHOLE else "one setting at a time"


def _settings(grid: Grid, found: Mapping[Config, float]) -> BaselineSettings:
    best = best_of(found)
    return BaselineSettings(
        chosen=asdict(best),
        ndcg_10=found[best],
        search=_search_of(grid),
        grid={name: tuple(values) for name, values in grid.items()},
        tried=tuple(Trial(settings=asdict(each), ndcg_10=value) for each, value in found.items()),
    )
