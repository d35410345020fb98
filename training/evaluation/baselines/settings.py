"""Files of the baselines' settings: what was tried on validation, and what was chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from vireo.server.errors import VireoError
from vireo.training.evaluation.baselines.past import Past, Setting
from vireo.training.evaluation.baselines.registry import DECLARED, Config, changed

SETTINGS_FILE = "baselines.json"
"""In the folder of a data set's features, in a run's report and in `bench/report/<data set>`."""
SHIPPED = Path(__file__).parents[4] / "bench" / "report"
"""Reports of a checkout; a wheel has none."""

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
