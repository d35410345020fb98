"""Settings of the baselines: the search on validation, and the files that hold what was found.

The protocol is that of the test, one watch earlier: every viewer's last watch before the test is
held out, and baselines fitted on all watches before it rank the videos not watched by then. A grid
of one or two settings is searched whole; a larger one one setting at a time, from the best so far,
until no setting is better.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console

from vireo.server.arrays import Int64Array
from vireo.server.errors import VireoError
from vireo.training.evaluation.baselines import (
    BASELINES,
    DECLARED,
    Baseline,
    Config,
    Fitter,
    Grid,
    Past,
    Setting,
    changed,
    possible,
)
from vireo.training.evaluation.systems import past_watches
from vireo.training.metrics import full_ranking, ndcg, viewer_chunks
from vireo.training.progress import Bars

SETTINGS_FILE = "baselines.json"
"""In the folder of a data set's features, in a run's report and in `bench/report/<data set>`."""
SHIPPED = Path(__file__).parents[3] / "bench" / "report"
"""Reports of a checkout; a wheel has none."""
MAX_WHOLE = 2
"""Maximum settings of a grid that is searched whole."""
MAX_SCORES = 50_000_000
"""Maximum scores for each trial; viewers are sampled to keep it."""
Settings = dict[str, Setting]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Trial(_Document):
    """Settings that were tried."""

    settings: Settings
    ndcg_10: float
    """On validation."""


class BaselineSettings(_Document):
    """One baseline's settings, and how they were found."""

    chosen: Settings
    ndcg_10: float | None = None
    """On validation; None if not tuned on this data."""
    search: Literal["whole grid", "one setting at a time"] | None = None
    grid: dict[str, tuple[Setting, ...]] = {}
    tried: tuple[Trial, ...] = ()
    """In order of trial, the initial settings first."""


class TunedBaselines(_Document):
    """The baselines' settings for one data set."""

    fingerprint: str
    """`Past.fingerprint` of the histories before the test; the settings are for these alone."""
    viewers: int = 0
    """Number of viewers whose last watch before the test was used."""
    cpu_seconds: float = 0.0
    """CPU time of the search."""
    baselines: dict[str, BaselineSettings] = {}

    def configs(self) -> dict[str, Config]:
        """Return the chosen settings by baseline.

        Raises:
            TypeError: another build, with other settings, wrote them.
        """
        return {
            name: changed(DECLARED[name].start, found.chosen)
            for name, found in self.baselines.items()
            if name in DECLARED
        }

    def of(self, names: Iterable[str]) -> TunedBaselines:
        """Return the settings that these baselines are measured with, tuned or not."""
        used = {
            name: self.baselines.get(name) or BaselineSettings(chosen=asdict(DECLARED[name].start))
            for name in names
        }
        return self.model_copy(update={"baselines": used})


def described(settings: Mapping[str, Any]) -> str:
    """Return settings as text: "half life 3, steps 1 / 0.5"."""
    return ", ".join(
        f"{name.replace('_', ' ')} {_shown(value)}" for name, value in settings.items()
    )


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " / ".join(map(_shown, value))
    return "none" if value is None else f"{value:g}"


def read_settings(folder: Path) -> TunedBaselines | None:
    """Return what a folder's SETTINGS_FILE says; None if there is none.

    Raises:
        VireoError: it can't be read, or another build wrote it.
    """
    path = folder / SETTINGS_FILE
    try:
        found = TunedBaselines.model_validate_json(path.read_bytes())
        found.configs()
    except FileNotFoundError:
        return None
    except (OSError, TypeError, ValidationError) as error:
        raise VireoError(
            f"cannot read {path}: {error}; make it again with: vireo evaluate study baselines"
        ) from error
    return found


def write_settings(folder: Path, settings: TunedBaselines) -> Path:
    """Replace a folder's SETTINGS_FILE and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{SETTINGS_FILE}.partial"
    partial.write_text(settings.model_dump_json(indent=1, exclude_defaults=True) + "\n")
    return partial.replace(folder / SETTINGS_FILE)


def tuned_for(past: Past, features: Path, dataset: str) -> TunedBaselines:
    """Return the settings tuned on these very histories; empty if there are none.

    Searches the data set's folder of features, then the checkout's reports.

    Raises:
        VireoError: a file of settings can't be read.
    """
    for folder in (features, SHIPPED / dataset):
        found = read_settings(folder)
        if found is not None and found.fingerprint == past.fingerprint:
            return found
    return TunedBaselines(fingerprint=past.fingerprint)


def add_to_report(report: Path, used: TunedBaselines) -> None:
    """Add the settings of measured baselines to those in a report."""
    before = read_settings(report)
    kept = before.baselines if before and before.fingerprint == used.fingerprint else {}
    write_settings(report, used.model_copy(update={"baselines": kept | used.baselines}))


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
            ranks.append(full_ranking(baseline(watched), watched, self.targets[part]))
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
            start, grid = DECLARED[name].start, DECLARED[name].grid
            tried = search(start, grid, lambda config: held_out.ndcg_10(config.fit(fitter)))
            best = best_of(tried)
            found[name] = BaselineSettings(
                chosen=asdict(best),
                ndcg_10=tried[best],
                search="whole grid" if len(grid) <= MAX_WHOLE else "one setting at a time",
                grid={setting: tuple(values) for setting, values in grid.items()},
                tried=tuple(Trial(settings=asdict(each), ndcg_10=tried[each]) for each in tried),
            )
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
    found = {start: measure(start)}
    if len(grid) <= MAX_WHOLE:
        for together in product(*grid.values()):
            config = changed(start, dict(zip(grid, together, strict=True)))
            if config not in found:
                found[config] = measure(config)
        return found
    before = None
    while best_of(found) != before:
        before = best_of(found)
        for name, values in grid.items():
            around = best_of(found)
            for config in (changed(around, {name: value}) for value in values):
                if config not in found:
                    found[config] = measure(config)
    return found


def best_of(found: Mapping[Config, float]) -> Config:
    """Return the configuration that measured best, the first tried of equal ones."""
    return max(found, key=found.__getitem__)
