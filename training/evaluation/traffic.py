"""What viewers did with the videos that were shown: rates in all and by dimension."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from vireo.server.arrays import BoolArray, Float64Array, Int32Array
from vireo.server.signals import EVERY_SOURCE
from vireo.training.data.shown import IMPRESSIONS

DIMENSIONS = ("surface", "position", "source", "release", "arm", "placement")
FALLBACK = "popular fallback"
"""Source of the videos of slates that have none of a candidate source."""
_COLUMNS = {"surface": "surface", "release": "release_id", "arm": "arm", "placement": "placement"}
_MAX_POSITION = 20
"""Positions beyond it are counted together."""
_Z_95 = 1.959964
"""Quantile of the normal distribution for a two-sided 95% interval."""
RATES = {
    "plays_per_impression": ("played", 1),
    "watch_seconds_per_impression": ("watched_seconds", 1),
    "likes_per_1000_impressions": ("liked", 1000),
    "hides_per_1000_impressions": ("hidden", 1000),
}
"""Column of each rate's outcome, and the number of impressions that it is of."""
_COUNTS = ("viewers", "impressions", "videos_shown", "videos_played")


@dataclass(frozen=True)
class Rate:
    """A ratio of sums over viewers, with its 95% interval."""

    value: float
    low: float | None
    high: float | None
    """None if it is of one viewer, as `low` is."""


@dataclass(frozen=True)
class Group:
    """Shown videos that have one value of a dimension."""

    value: str
    viewers: int
    """Viewers with an impression."""
    impressions: int
    """Videos shown and seen."""
    videos_shown: int
    videos_played: int
    """Distinct videos, as `videos_shown` has them."""
    rates: Mapping[str, Rate]
    """Outcomes of what was seen, by the names of RATES; empty without impressions."""


@dataclass(frozen=True)
class Traffic:
    """What viewers did with the videos of some slates."""

    slates: int
    first: datetime
    last: datetime
    """When the first and the last slate were answered."""
    impressions_reported: bool
    """False if no event is an impression: every shown video then counts as seen."""
    plays_without_impression: int
    """Videos that were played without an impression of them; no rate counts them."""
    total: Group
    by: Mapping[str, Sequence[Group]]
    """Groups of each dimension. A video that several sources proposed counts for each of them."""


def traffic(shown: pa.Table, dimensions: Sequence[str] = DIMENSIONS) -> Traffic:
    """Return rates of what `shown_videos` returns, at least one row, by some of DIMENSIONS."""
    times = pc.min_max(shown["answered_at"])
    played, seen = shown["played"].to_numpy(), shown["seen"].to_numpy()
    viewers, videos = _codes(shown, "viewer_id")[0], _codes(shown, "video_id")[0]
    outcomes: dict[str, Float64Array] = {
        name: np.nan_to_num(shown[column].to_numpy().astype(np.float64)) * scale
        for name, (column, scale) in RATES.items()
    }

    def group(value: str, rows: BoolArray) -> Group:
        """Return what the rows of a mask, bool[n], have together."""
        own = np.flatnonzero(rows & seen)
        viewer = viewers[own]
        impressions = np.bincount(viewer)
        return Group(
            value=value,
            viewers=int(np.count_nonzero(impressions)),
            impressions=len(own),
            videos_shown=len(np.unique(videos[rows])),
            videos_played=len(np.unique(videos[rows & played])),
            rates={
                name: ratio_of_sums(np.bincount(viewer, values[own]), impressions)
                for name, values in outcomes.items()
                if len(own)
            },
        )

    return Traffic(
        slates=len(pc.unique(shown["request_id"])),
        first=times["min"].as_py(),
        last=times["max"].as_py(),
        impressions_reported=shown.schema.metadata[IMPRESSIONS] == b"reported",
        plays_without_impression=int(np.sum(played & ~seen)),
        total=group("all", np.ones(len(shown), np.bool_)),
        by={
            dimension: [
                group(value, rows) for value, rows in _values(shown, dimension) if rows.any()
            ]
            for dimension in dimensions
        },
    )


def ratio_of_sums(numerators: npt.NDArray[Any], denominators: npt.NDArray[Any]) -> Rate:
    """Return sum over sum, with its interval clustered by viewer, by the delta method.

    Deng, Knoblich and Lu, "Applying the Delta Method in Metric Analytics: A Practical Guide with
    Novel Ideas", KDD 2018, section 4.

    Args:
        numerators: of each viewer, float[v], >= 0.
        denominators: of each viewer, int[v]; viewers with 0 are left out.
    """
    total, viewers = denominators.sum(), np.count_nonzero(denominators)
    value = float(numerators.sum() / total)
    if viewers < 2:
        return Rate(value, None, None)
    # Their mean is 0: the sum is (v - 1) times the variance of numerator - value * denominator.
    squares = float(np.square(numerators - value * denominators).sum())
    half = _Z_95 * math.sqrt(viewers / (viewers - 1) * squares) / float(total)
    return Rate(value, max(0.0, value - half), value + half)


def _values(shown: pa.Table, dimension: str) -> Iterator[tuple[str, BoolArray]]:
    """Yield each value of a dimension, with the rows that have it, bool[n]."""
    if dimension == "position":
        positions = shown["position"].to_numpy()
        for position in range(1, _MAX_POSITION + 1):
            yield str(position), positions == position
        yield f"{_MAX_POSITION + 1}+", positions > _MAX_POSITION
    elif dimension == "source":
        masks, slate = shown["sources"].to_numpy(), _codes(shown, "request_id")[0]
        for source in EVERY_SOURCE:
            yield source.name, masks & source.bit != 0
        fallback = (np.bincount(slate, masks != 0) == 0)[slate]
        yield FALLBACK, fallback
        yield "none", (masks == 0) & ~fallback
    else:
        codes, names = _codes(shown, _COLUMNS[dimension])
        for name, code in sorted((name, code) for code, name in enumerate(names)):
            yield name or "unknown", codes == code
        yield "not ranked", codes < 0  # only placements are null


def _codes(shown: pa.Table, column: str) -> tuple[Int32Array, list[str]]:
    """Return the number of each row's text, -1 for null, int32[n], and the texts."""
    found = shown[column].combine_chunks().dictionary_encode()
    return found.indices.fill_null(-1).to_numpy(), found.dictionary.to_pylist()


def write_metrics(report: Traffic, file: Path) -> None:
    """Replace a file by the report in Prometheus' text format, for node_exporter's collector."""
    registry, ends = CollectorRegistry(), {"": "value", "_low": "low", "_high": "high"}
    measures = *_COUNTS, *(rate + end for rate in RATES for end in ends)
    gauges = {
        name: Gauge(
            f"vireo_traffic_{name}",
            f"{name.replace('_', ' ').capitalize()} of the slates reported on.",
            ["dimension", "value"],
            registry=registry,
        )
        for name in measures
    }
    for dimension, groups in {"all": [report.total], **report.by}.items():
        for group in groups:
            numbers = {name: getattr(group, name) for name in _COUNTS}
            for name, rate in group.rates.items():
                numbers |= {name + end: getattr(rate, each) for end, each in ends.items()}
            for name, number in numbers.items():
                if number is not None:
                    gauges[name].labels(dimension, group.value).set(number)
    write_to_textfile(str(file), registry)
