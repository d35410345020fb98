"""What context of requests is worth: the study of a data set whose watches have it."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console

from bench.speed.row import Row
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.releases.manifest import Manifest
from vireo.training.run import measuring_home

_PROFILE = "demo"
_SYSTEMS = {
    "with context": "with context",
    "absent in requests": "context absent in requests",
    "features off": "trained without context",
}
"""Names in the study's result, and here."""
_JUDGED = {"with context": ("low", 0.0), "absent in requests": ("high", -0.005)}
"""An end of a difference's interval, and the least it may be: context must help for certain, and
what its absence costs, 0.005 as published, must not be more for certain."""


def measure_context(home: Home, dataset: str, console: Console) -> list[Row]:
    """Return NDCG@10 of the study, with its confidence intervals as the spread.

    The interval of the difference with context must lie above 0, and that of the difference
    without it must reach what is published; see _JUDGED.

    A result of the newest release is read. Else the study runs, which resumes: it trains a release
    without context and measures it beside the newest one.

    Raises:
        VireoError: no release of the data set was trained, or it reads no context.
    """
    if not has_context_data(home, dataset):
        raise VireoError(
            f"no release of {dataset} was trained; make one with: vireo data synth --context "
            f"--viewers 4000 --videos 5000 --events 160000 --name {dataset} && vireo train "
            f"--data {dataset} --profile {_PROFILE}"
        )
    measured = measuring_home(home)
    found = _known(measured, dataset)
    if found is None:
        # Here: it imports torch, which other parts don't need.
        from vireo.training.studies import Studies

        found = Studies(measured, dataset, _PROFILE, console).context()
    return _rows(found, dataset)


def has_context_data(home: Home, dataset: str) -> bool:
    """Return whether a release of a data set was trained, and its measured fit is there."""
    return home.measuring.staged_release(dataset).exists()


def _known(measured: Home, dataset: str) -> dict[str, Any] | None:
    """Return the study's result if it is of the newest release."""
    path = measured.run(dataset) / "report" / "context.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_bytes())
    newest = Manifest.read(measured.staged_release(dataset)).release_id
    return found if found["release_id"] == newest else None


def _rows(found: dict[str, Any], dataset: str) -> list[Row]:
    rows = []
    for name, title in _SYSTEMS.items():
        figure = found["systems"][name]["ndcg_10"]
        rows.append(_row(f"NDCG@10 {title}, {dataset}", figure))
    for name, against in found["tests"].items():
        for other, test in against.items():
            measure = f"NDCG@10 {_SYSTEMS[name]} minus {_SYSTEMS[other]}, by viewer, {dataset}"
            rows.append(_row(measure, test["ndcg_10"]))
            end, least = _JUDGED[name]
            figure = test["ndcg_10"][end]
            rows.append(Row(f"{end} end of: {measure}", figure, bound=least, at_least=True))
    return rows


def _row(measure: str, figure: dict[str, float]) -> Row:
    return Row(measure, figure["value"], (figure["low"], figure["high"]))
