"""The page's tables: headings and rows of text, from the files of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.evaluation.baselines.settings import described
from training.evaluation.page.drawing import MEASURES, name_of

Document = Mapping[str, Any]
_OURS = frozenset({"chain", "served", "vireo"})


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    cells: tuple[str, ...]
    strong: bool = False
    """Whether it is set in bold."""


@dataclass(frozen=True)
class Table:
    """Headings and lines; the first column is text, the others numbers."""

    headings: tuple[str, ...]
    rows: tuple[Row, ...]


def systems(metrics: Document, comparison: Document) -> Table:
    """Every system's measures, with intervals and tests where they were made."""
    measured = {name: metrics[name] for name in metrics if _is_system(metrics[name])}
    tests = comparison.get("tests", {})
    reference = name_of(comparison["reference"]) if comparison else ""
    headings = ["", *MEASURES.values()]
    if tests:
        headings.append(f"p against {reference}")
    rows = []
    for name, values in measured.items():
        known = comparison.get("systems", {}).get(name, {})
        cells = [name_of(name)]
        cells += [_cell(values[measure], known.get(measure)) for measure in MEASURES]
        if tests:
            cells.append(_p(tests[name]["p_holm"]) if name in tests else "\u2013")
        rows.append(Row(tuple(cells), name in _OURS))
    return Table(tuple(headings), tuple(rows))


def _is_system(values: object) -> bool:
    return isinstance(values, Mapping) and "ndcg_10" in values


def _cell(value: float, interval: Mapping[str, float] | None) -> str:
    if interval is None:
        return f"{value:.3f}"
    return f"{value:.3f} ({interval['low']:.3f}\u2013{interval['high']:.3f})"


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0")


def baselines(document: Document) -> Table:
    """Each baseline's settings, and what they reached on validation where they were tuned."""
    rows = []
    for name, found in document["baselines"].items():
        tried = found.get("tried", ())
        figures = [tried[0]["ndcg_10"], found["ndcg_10"]] if tried else []
        cells = [f"{value:.4f}" for value in figures] or ["\u2013", "not tuned"]
        rows.append(Row((name_of(name), described(found["chosen"]), f"{len(tried)}", *cells)))
    return Table(("", "settings", "tried", "validation NDCG@10, first", "best"), tuple(rows))


def ablations(document: Document) -> Table:
    """What is lost without each source or feature, most first, tested where that was done."""
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
            cells.append(_p(tests[name]["p_holm"]) if name in tests else "\u2013")
        rows.append(Row(tuple(cells)))
    return Table(tuple(headings), tuple(rows))


def sources(document: Document) -> Table:
    """Recall of each source, of the union, and of every source's best together, by k."""
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
    """Return how each task's probabilities compare to what happened, on test and validation."""
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
    """Each system's measures in each group, which has `cases` and `systems`."""
    rows, shown = [], ("hr_10", "ndcg_10", "recall_100")
    for group, each in found.items():
        for name, values in each["systems"].items():
            cells = (f"{values[measure]:.3f}" for measure in shown)
            first = (
                (group, f"{each['cases']:,}") if name == next(iter(each["systems"])) else ("", "")
            )
            rows.append(Row((*first, name_of(name), *cells), name in _OURS))
    return Table(("", "cases", "system", *(MEASURES[measure] for measure in shown)), tuple(rows))


def seeds(document: Document) -> Table:
    """Each seed's figures of the chain, of what was served and of the ranker, and their means."""
    shown = ("hr_10", "ndcg_10", "recall_100")
    names = list(document["mean"])
    tasks = [
        task
        for task in ("watch", "like")
        if f"{task}_predicted_over_observed" in document.get("ranker", {})
    ]
    headings = (
        "seed",
        *(f"{name_of(name)} {MEASURES[measure]}" for name in names for measure in shown),
        *(f"will {task}, predicted over observed" for task in tasks),
        "training",
        "of one core",
    )
    took = ("train_seconds", "train_cpu_seconds")
    rows = []
    for each in document["seeds"]:
        cells = [f"{each['systems'][name][m]:.4f}" for name in names for m in shown]
        cells += [f"{each['ranker'][f'{task}_predicted_over_observed']:.3f}" for task in tasks]
        rows.append(Row((str(each["seed"]), *cells, *(_minutes(each[name]) for name in took))))
    means = [_mean(document["mean"][name][m]) for name in names for m in shown]
    means += [_mean(document["ranker"][f"{task}_predicted_over_observed"]) for task in tasks]
    seconds = (_minutes(document[name]["mean"]) for name in took)
    rows.append(Row(("mean ± 95%", *means, *seconds), True))
    return Table(headings, tuple(rows))


def _mean(found: Mapping[str, float | None]) -> str:
    """A mean, with half the width of its interval where it has one."""
    if found["low"] is None or found["mean"] is None:
        return f"{found['mean']:.4f}"
    return f"{found['mean']:.4f} ± {found['mean'] - found['low']:.4f}"


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"
