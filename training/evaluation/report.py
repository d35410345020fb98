"""A run's report: a JSON file for each subject, and a page that is made from these alone.

Slices tell where a system's hits are: its slates by popularity, and groups of the test viewers.

`train` starts the report afresh for each release; later evaluations of the same release add
systems.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from vireo.server.arrays import BoolArray, Float64Array, Int64Array
from vireo.server.errors import VireoError
from vireo.server.releases.manifest import Manifest
from vireo.server.signals import TASKS
from vireo.training.evaluation.systems import SYSTEMS, TestViewers
from vireo.training.evaluation.tuning import described
from vireo.training.metrics import with_intervals

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
INDEX = "index.html"
MEASURES = {
    "hr_10": "HR@10",
    "ndcg_10": "NDCG@10",
    "recall_50": "Recall@50",
    "recall_100": "Recall@100",
    "coverage_10": "Coverage@10",
}
_HEAD, _MID = 0.1, 0.5
"""The most watched tenth of the catalogue is the head; the middle follows, up to half of it."""
_DAY = 86_400.0


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


def ticks(low: float, high: float) -> list[float]:
    """Return two to six round numbers, the first at most `low` and the last at least `high`."""
    span = (high - low) or abs(high) or 1.0
    unit = 10.0 ** math.floor(math.log10(span / 4))
    step = next(unit * each for each in (1, 2, 5, 10) if span / (unit * each) <= 4)
    first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
    return [round(each * step, 12) for each in range(first, last + 1)]


def scale(
    low: float, high: float, start: float, end: float, power: float = 1.0
) -> Callable[[float], float]:
    """Return the function from values, `low` to `high`, to coordinates, `start` to `end`."""
    span = (high - low) or 1.0
    return lambda value: round(start + (end - start) * ((value - low) / span) ** power, 1)


def points(rows: Iterable[Mapping[str, float]], x: str | None, y: str) -> list[tuple[float, float]]:
    """Return the (x, y) of the rows that have `y`; without `x` rows are numbered from 1."""
    return [(row[x] if x else place, row[y]) for place, row in enumerate(rows, start=1) if y in row]


def pick(values: Mapping[str, float], names: Iterable[str]) -> list[str]:
    """Return the values of these names, with three decimals."""
    return [f"{values[name]:.3f}" for name in names]


def render_page(folder: Path, manifest: Manifest) -> str:
    """Return the self-contained HTML page of the report in `folder`, of this release.

    Raises:
        VireoError: the folder has no report.
    """
    if not read_json(folder, METRICS):
        raise VireoError(
            f"{folder} has no {METRICS}; make it with: vireo evaluate --data {manifest.dataset}"
        )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        extensions=["jinja2.ext.do"],
    )
    environment.filters["pick"] = pick
    page = environment.get_template("page.html.jinja").render(
        read=partial(read_json, folder),
        ticks=ticks,
        scale=scale,
        points=points,
        described=described,
        number="{:.3f}".format,
        zip=zip,
        manifest=manifest,
        measures=MEASURES,
        systems=SYSTEMS,
        tasks=[task.name for task in TASKS],
    )
    return page.lstrip()


def write_page(folder: Path, manifest: Manifest, path: Path | None = None) -> Path:
    """Write the page to a file, INDEX in `folder` by default, and return its path.

    Raises:
        VireoError: there is no report, or the file can't be written.
    """
    path = path or folder / INDEX
    text = render_page(folder, manifest)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise VireoError(f"cannot write {path}: {error.strerror}; give another file") from error
    return path


def popularity_shares(counts: Int64Array, slates: Int64Array) -> list[float]:
    """Return the share of `slates` that each decile of videos has.

    Args:
        counts: watches of each video, int64[n]; the first decile has the most watched.
        slates: rows, any shape, -1 for none.
    """
    decile = _places(counts) * 10 // max(len(counts), 1)
    taken = np.bincount(decile[slates[slates >= 0]], minlength=10).astype(np.float64)
    shares: list[float] = (taken / max(taken.sum(), 1.0)).tolist()
    return shares


def _places(counts: Int64Array) -> Int64Array:
    """Return each video's place by popularity, from 0, int64[n]."""
    return np.argsort(np.argsort(-counts, kind="stable"))


def sliced(
    watches: pd.DataFrame,
    videos: pd.DataFrame,
    viewers: TestViewers,
    counts: Int64Array,
    ranks: Mapping[str, Int64Array],
) -> dict[str, Any]:
    """Measure every system by activity of the test viewers, and popularity and age of the target.

    Args:
        watches: the split, whose test part are `viewers`.
        videos: the catalogue, a row a video.
        viewers: the test viewers.
        counts: watches of each video before the test, int64[n].
        ranks: 0-based rank of each held-out video by system, int64[v].

    Returns:
        By name of the slicing: `title`, and `groups`: a list of `name`, `n` viewers and
        `systems`, as in COMPARISON.
    """
    lengths = np.array([len(rows) for rows in viewers.watched], np.float64)
    ages = _ages(watches, videos, viewers.targets)
    cuts = {
        "activity": ("Videos that the viewer had watched before", _quarters(lengths)),
        "popularity": ("Popularity of the held-out video", _popularity(counts, viewers.targets)),
        "age": (
            "Age of the held-out video when it was watched, in days since it was published "
            "(if that isn't known: since anyone's first watch)",
            _quarters(ages, " days"),
        ),
    }
    return {
        name: {
            "title": title,
            "groups": [
                {
                    "name": group,
                    "n": int(part.sum()),
                    "systems": with_intervals({s: places[part] for s, places in ranks.items()}),
                }
                for group, part in groups.items()
            ],
        }
        for name, (title, groups) in cuts.items()
    }


def _quarters(values: Float64Array, unit: str = "") -> dict[str, BoolArray]:
    """Return four groups of similar size, smallest values first; fewer if values repeat."""
    cuts = np.unique(np.quantile(values, [0.25, 0.5, 0.75]))
    place = np.searchsorted(cuts, values, side="left")
    parts = [place == number for number in range(len(cuts) + 1)]
    return {
        f"{values[part].min():,.0f} to {values[part].max():,.0f}{unit}": part
        for part in parts
        if part.any()
    }


def _popularity(counts: Int64Array, targets: Int64Array) -> dict[str, BoolArray]:
    share = _places(counts)[targets] / len(counts)
    groups = {
        "head: most watched tenth": share < _HEAD,
        "middle: the next four tenths": (share >= _HEAD) & (share < _MID),
        "tail: least watched half": share >= _MID,
    }
    return {name: part for name, part in groups.items() if part.any()}


def _ages(watches: pd.DataFrame, videos: pd.DataFrame, targets: Int64Array) -> Float64Array:
    """Return the days from each target's publication, or else first watch, to the test watch."""
    test = watches[watches["part"] == "test"]
    first = watches.groupby("video_id")["time"].min()
    born = videos["published"].fillna(videos["video_id"].map(first)).iloc[targets]
    age = (test["time"].reset_index(drop=True) - born.reset_index(drop=True)).dt.total_seconds()
    return np.asarray(age.fillna(0.0) / _DAY, np.float64)
