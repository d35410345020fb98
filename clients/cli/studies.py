"""Prints what the studies of `vireo evaluate` found: the page of the report shows all of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from clients.cli.tables import print_table, table_of


def print_studies(found: Mapping[str, Any], as_json: bool, report: Path) -> None:
    """Prints each study as JSON, or its main figures and where the rest is."""
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    console = Console(highlight=False)
    for name, document in found.items():
        if name == "leaks":
            console.print("no leak: nothing of a test watch has reached training")
            continue
        rows = list(_ROWS[name](document))
        columns = tuple(rows[0][1])
        table = table_of("", *columns, numbers=columns, title=name.replace("_", " "))
        for title, figures in rows:
            table.add_row(title, *(f"{value:.4f}" for value in figures.values()))
        print_table(table, console)
    typer.echo(f"report: {report}")


Row = tuple[str, Mapping[str, float]]


def _sources(document: Mapping[str, Any]) -> Iterator[Row]:
    yield from document["alone"].items()
    yield "all together", document["union"]
    yield "k of each source", {k: pool["recall"] for k, pool in document["pooled"].items()}
    yield "videos that these are", {k: pool["videos"] for k, pool in document["pooled"].items()}
    for name, recalls in document["without"].items():
        yield f"without {name}", recalls


def _quotas(document: list[dict[str, float]]) -> Iterator[Row]:
    yield from ((str(place), shares) for place, shares in enumerate(document[:10], start=1))


def _baselines(document: Mapping[str, Any]) -> Iterator[Row]:
    for name, found in document["baselines"].items():
        start, best = found["tried"][0]["ndcg_10"], found["ndcg_10"]
        yield name, {"validation NDCG@10 at first": start, "at best": best}


def _diversity(document: Mapping[str, Any]) -> Iterator[Row]:
    for point in document["points"]:
        figures = {name: value for name, value in point.items() if name != "strength"}
        mark = " (released)" if point["strength"] == document["chosen"] else ""
        yield f"{point['strength']:g}{mark}", figures


def _ablations(document: Mapping[str, Any]) -> Iterator[Row]:
    yield "whole chain", document["full"] | {"lost": 0.0, "p": 1.0}
    for name, measures in document["without"].items():
        test = document["tests"][name]
        yield f"without {name}", measures | {"lost": test["ndcg_10"]["value"], "p": test["p_holm"]}


def _cold_start(document: Mapping[str, Any]) -> Iterator[Row]:
    groups = {f"viewers, first {name}": group for name, group in document["viewers"].items()}
    groups |= {f"viewers, last {name}": group for name, group in document["late_viewers"].items()}
    for title, group in (*groups.items(), ("videos", document["videos"])):
        for system, measures in group["systems"].items():
            figures = {name: measures[name] for name in ("hr_10", "ndcg_10", "recall_100")}
            yield f"{title}: {system}", figures


_ROWS: dict[str, Callable[[Any], Iterator[Row]]] = {
    "sources": _sources,
    "quotas": _quotas,
    "baselines": _baselines,
    "diversity": _diversity,
    "ablations": _ablations,
    "cold_start": _cold_start,
}
