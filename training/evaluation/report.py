"""The files of a run's report: a JSON file for each subject, and the ranks of every system.

The page is made from these files alone. `train` starts them afresh for each release; later
evaluations of the same release add systems.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vireo.server.arrays import Int64Array
from vireo.training.evaluation.systems import SYSTEMS, SystemReport

METRICS = "metrics.json"
RECALL = "recall.json"
CALIBRATION = "calibration.json"
POPULARITY = "popularity.json"
LEARNING = "learning.json"
COMPARISON = "comparison.json"
SLICES = "slices.json"
SERVED = "served.json"
SOURCES = "sources.json"
ABLATIONS = "ablations.json"
DIVERSITY = "diversity.json"
COLD_START = "cold_start.json"
CONTEXT = "context.json"
RANKS = "ranks.npz"
_VIEWERS = "viewer_ids"
_SLATE = "slate_of_"


@dataclass(frozen=True)
class Systems:
    """Every system's results on the test viewers."""

    viewer_ids: tuple[str, ...]
    """In the order of every array."""
    reports: Mapping[str, SystemReport] = field(default_factory=dict)
    """By name, in the order of SYSTEMS."""

    @property
    def ranks(self) -> dict[str, Int64Array]:
        """0-based rank of each held-out video by system, int64[v]."""
        return {name: report.ranks for name, report in self.reports.items()}

    def also(self, reports: Mapping[str, SystemReport]) -> Systems:
        """Return these with other systems, which replace those of the same name."""
        together = {**self.reports, **reports}
        ordered = {name: together[name] for name in SYSTEMS if name in together}
        return Systems(self.viewer_ids, ordered)

    @staticmethod
    def load(folder: Path, viewer_ids: tuple[str, ...]) -> Systems:
        """Read RANKS; without systems if there is no file or it is of other viewers."""
        path = folder / RANKS
        if not path.exists():
            return Systems(viewer_ids)
        with np.load(path) as file:
            if tuple(file[_VIEWERS].tolist()) != viewer_ids:
                return Systems(viewer_ids)
            reports = {
                name: SystemReport(file[name], file[_SLATE + name].astype(np.int64))
                for name in SYSTEMS
                if name in file
            }
        return Systems(viewer_ids, reports)

    def write(self, folder: Path) -> None:
        """Write RANKS: `viewer_ids`, and each system's ranks and slates."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, npt.NDArray[Any]] = {_VIEWERS: np.array(self.viewer_ids, np.str_)}
        for name, report in self.reports.items():
            arrays[name] = report.ranks
            arrays[_SLATE + name] = report.slates.astype(np.int32)
        partial = folder / f"partial-{RANKS}"
        np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]
        partial.replace(folder / RANKS)


def write_json(folder: Path, name: str, document: Mapping[str, object]) -> None:
    """Replace a file of the report."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{name}.partial"
    partial.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")
    partial.replace(folder / name)


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Return a file of the report; empty if there is none."""
    path = folder / name
    if not path.exists():
        return {}
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def flat(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return nested measures under one name each, as in a manifest: "chain.ndcg_10"."""
    return {
        f"{system}.{name}": value
        for system, values in metrics.items()
        for name, value in values.items()
    }
