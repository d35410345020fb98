"""The page's tables: headings and rows of text, each made from one file of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.signals import TASKS
from training.evaluation.baselines.settings import described
from training.evaluation.page.drawing import MEASURES, name_of
from training.evaluation.systems import SYSTEMS

Document = Mapping[str, Any]
_OURS = frozenset({"chain", "served", "vireo"})
_SHOWN = ("hr_10", "ndcg_10", "recall_100")
_NONE = "\u2013"


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    cells: tuple[str, ...]
    strong: bool = False
    """Whether it is set in bold."""


@dataclass(frozen=True)
class Table:
    """Headings and rows; the first column is text, the others are numbers."""

    headings: tuple[str, ...]
    rows: tuple[Row, ...]


def systems(metrics: Document, comparison: Document) -> Table:
    """Show every system's measures, with intervals and tests if there are any."""
    tests = comparison.get("tests", {})
    reference = name_of(comparison["reference"]) if comparison else ""
    headings = ["", *MEASURES.values()]
    if tests:
        headings.append(f"p against {reference}")
    rows = []
    for name, values in metrics.items():
        if name not in SYSTEMS:
            continue
        known = comparison.get("systems", {}).get(name, {})
        cells = [name_of(name)]
        cells += [_cell(values[measure], known.get(measure)) for measure in MEASURES]
        if tests:
            cells.append(_p(tests.get(name)))
        rows.append(Row(tuple(cells), name in _OURS))
    return Table(tuple(headings), tuple(rows))


def _cell(value: float, interval: Mapping[str, float] | None) -> str:
    if interval is None:
        return f"{value:.3f}"
    return f"{value:.3f} ({interval['low']:.3f}\u2013{interval['high']:.3f})"


def _p(test: Mapping[str, float] | None) -> str:
    if test is None:
        return _NONE
    value = test["p_holm"]
    return "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0")


def baselines(document: Document) -> Table:
    """Show each baseline's settings, and their NDCG@10 on validation if they were tuned."""
    rows = []
    for name, found in document["baselines"].items():
        tried = found.get("tried", ())
        figures = [tried[0]["ndcg_10"], found["ndcg_10"]] if tried else []
        cells = [f"{value:.4f}" for value in figures] or [_NONE, "not tuned"]
        rows.append(Row((name_of(name), described(found["chosen"]), f"{len(tried)}", *cells)))
    return Table(("", "settings", "tried", "validation NDCG@10, first", "best"), tuple(rows))


def ablations(document: Document) -> Table:
    """Show the loss without each source or feature, largest first, with tests if there are any."""
    full, tests = document["full"], document.get("tests", {})
    shown = [measure for measure in MEASURES if measure in full]
    headings = ["without", *(MEASURES[measure] for measure in shown), "NDCG@10 lost"]
    whole = ["nothing: the whole chain", *(f"{full[measure]:.3f}" for measure in shown), ""]
    if tests:
        headings.append("p")
        whole.append("")
    lost = {
        name: full["ndcg_10"] - measures["ndcg_10"]
        for name, measures in document["without"].items()
    }
    rows = [Row(tuple(whole), strong=True)]
    for name in sorted(lost, key=lost.__getitem__, reverse=True):
        measures = document["without"][name]
        share = lost[name] / full["ndcg_10"] if full["ndcg_10"] else 0.0
        cells = [name_of(name), *(f"{measures[measure]:.3f}" for measure in shown)]
        cells.append(f"{lost[name]:+.4f} ({share:+.1%})")
        if tests:
            cells.append(_p(tests.get(name)))
        rows.append(Row(tuple(cells)))
    return Table(tuple(headings), tuple(rows))


def sources(document: Document) -> Table:
    """Show recall by k of each source, of the union, and of every source's best together."""
    alone = {name_of(name): values for name, values in document["alone"].items()}
    lines = {**alone, "all together": document["union"]}
    rows = [
        Row((name, *(f"{value:.3f}" for value in values.values())), name == "all together")
        for name, values in lines.items()
    ]
    pooled = document.get("pooled", {}).values()
    if pooled:
        cells = (f"{each['recall']:.3f} in {each['videos']:,.0f}" for each in pooled)
        rows.append(Row(("k of every source, in how many", *cells)))
    return Table(("", *(f"Recall@{k}" for k in document["union"])), tuple(rows))


def calibration(document: Document) -> Table:
    """Show the calibration of each task on test and validation."""
    headings = ("", "held-out watches", "predicted over observed", "calibration error")
    rows = []
    for task in document["bins"]:
        for part in ("test", "validation"):
            found, name = document[part], f"{task}_predicted_over_observed"
            if name in found:
                interval = {end: found[f"{name}_{end}"] for end in ("low", "high")}
                cells = (_cell(found[name], interval), f"{found[f'{task}_ece']:.4f}")
                rows.append(Row((f"will {task}", part, *cells)))
    return Table(headings, tuple(rows))


def groups(found: Mapping[str, Document]) -> Table:
    """Show the measures of each group's `systems` with its number of `cases`."""
    rows = []
    for group, each in found.items():
        for name, values in each["systems"].items():
            first = name == next(iter(each["systems"]))
            title = (group, f"{each['cases']:,}") if first else ("", "")
            cells = (f"{values[measure]:.3f}" for measure in _SHOWN)
            rows.append(Row((*title, name_of(name), *cells), name in _OURS))
    return Table(("", "cases", "system", *(MEASURES[measure] for measure in _SHOWN)), tuple(rows))


def seeds(document: Document) -> Table:
    """Show each seed's measures of systems and ranker, its training time, and the means."""
    names = list(document["mean"])
    ratios = {
        task: ratio
        for task in (each.name for each in TASKS)
        if (ratio := f"{task}_predicted_over_observed") in document.get("ranker", {})
    }
    headings = (
        "seed",
        *(f"{name_of(name)} {MEASURES[measure]}" for name in names for measure in _SHOWN),
        *(f"will {task}, predicted over observed" for task in ratios),
        "training",
        "of one core",
    )
    took = ("train_seconds", "train_cpu_seconds")
    rows = []
    for each in document["seeds"]:
        cells = [f"{each['systems'][name][m]:.4f}" for name in names for m in _SHOWN]
        cells += [f"{each['ranker'][ratio]:.3f}" for ratio in ratios.values()]
        rows.append(Row((str(each["seed"]), *cells, *(_minutes(each[name]) for name in took))))
    means = [_mean(document["mean"][name][m]) for name in names for m in _SHOWN]
    means += [_mean(document["ranker"][ratio]) for ratio in ratios.values()]
    seconds = (_minutes(document[name]["mean"]) for name in took)
    rows.append(Row(("mean ± 95%", *means, *seconds), True))
    return Table(headings, tuple(rows))


def _mean(found: Mapping[str, float | None]) -> str:
    """Return a mean, with half the width of its interval if it has one."""
    if found["low"] is None or found["mean"] is None:
        return f"{found['mean']:.4f}"
    return f"{found['mean']:.4f} ± {found['mean'] - found['low']:.4f}"


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"
