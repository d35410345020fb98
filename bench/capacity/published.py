"""docs/capacity.md, and the measured costs that it is made of, from where they are published."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from bench.capacity.plan import (
    ROLES,
    Costs,
    Demand,
    Policy,
    Prices,
    limits,
    plan,
    role_milliseconds,
)
from vireo.server.errors import VireoError

CHECKOUT = Path(__file__).parents[2]
SPEED = "bench/report/speed/speed.json"
MEMORY = "bench/report/memory.jsonl"
OWN = "bench/report/capacity.json"
"""Written by `python -m bench.capacity.measure`."""
PAGE = CHECKOUT / "docs/capacity.md"
VIEWERS = (1_000, 100_000, 10_000_000)
CALLERS = 8
"""Callers at a time of the speed figures that count: as many as those of the tail."""

_SMALL, _LARGE = "1,000,000 events", "10,000,000 events"
_BUILDS: Mapping[str, int] = {_SMALL: 1_000_000, _LARGE: 10_000_000}


def published_costs(checkout: Path = CHECKOUT) -> Costs:
    """Return the costs; raise VireoError that names a figure that isn't where it should be."""
    speed = _rows(json.loads(_text(checkout / SPEED))["rows"])
    memory = _rows([json.loads(line) for line in _text(checkout / MEMORY).splitlines()])
    own: dict[str, Any] = json.loads(_text(checkout / OWN))
    of_slate = f"CPU a slate, Vireo behind Envoy, c={CALLERS}: "
    batched, alone = _sentence(
        checkout / "docs/live.md",
        r"takes some ([\d,]+) µs for each event of a batch of 100, and ([\d,]+) µs for one alone",
    )
    [applied] = _sentence(
        checkout / "docs/data.md", r"applies ([\d,]+) to [\d,]+ for each second of processor time"
    )
    small, large = (_figure(memory, "", f"features, {n}: peak memory in GB") for n in _BUILDS)
    millions = (_BUILDS[_LARGE] - _BUILDS[_SMALL]) / 1e6
    grows = (large - small) / millions
    pods = {
        role: _figure(speed, "pods", f"memory of a {role} pod, MB")
        for role in ("candidate", "ranking")
    }
    return Costs(
        slate_ms={role: _figure(speed, "chain", f"{of_slate}{role}, ms") for role in ROLES},
        event_call_ms=(alone - batched) / 1000,
        event_ms=batched / 1000,
        consumer_rate=applied,
        store_ms=own["store_ms"],
        row_bytes={int(watches): size for watches, size in own["row_bytes"].items()},
        event_bytes=own["event_bytes"],
        appends=own["appends"],
        process_mb={**own["process_mb"], **pods},
        features_gb=(small - grows * _BUILDS[_SMALL] / 1e6, grows),
    )


def capacity_page(costs: Costs) -> str:
    """Return the page as Markdown."""
    demand, policy, prices = Demand(0), Policy(), Prices()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # noqa: S701 (Markdown, of figures and texts of ours)
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.md.jinja").render(
        demand=demand,
        policy=policy,
        prices=prices,
        costs=costs,
        spent=role_milliseconds(demand, costs),
        plans=[plan(Demand(viewers), costs, policy, prices) for viewers in VIEWERS],
        limits=limits(demand, costs, policy),
        viewers=VIEWERS,
        roles=ROLES,
        callers=CALLERS,
        speed_page=SPEED.replace(".json", ".md"),
        memory_file=MEMORY,
        own_file=OWN,
        number=format,
        rounded=_rounded,
    )


def _rounded(viewers: float) -> str:
    """Return a number with two digits that count."""
    digits = len(str(int(viewers))) - 2
    return f"{round(viewers, -digits):,.0f}"


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise VireoError(f"cannot read {path}: {error.strerror}; it has costs") from error


def _rows(rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    return {(each["section"], each["measure"]): each["figure"] for each in rows}


def _figure(rows: Mapping[tuple[str, str], float], section: str, measure: str) -> float:
    try:
        return rows[section, measure]
    except KeyError:
        raise VireoError(
            f"no row {measure!r} of section {section!r} is published; if it was renamed, rename "
            "it in bench/capacity/published.py"
        ) from None


def _sentence(path: Path, pattern: str) -> list[float]:
    """Return the numbers of a sentence of the docs, which may be broken into lines anywhere."""
    found = re.search(pattern.replace(" ", r"\s+"), _text(path))
    if found is None:
        raise VireoError(
            f"{path.name} doesn't say any more: {pattern}; if the sentence was changed, change it "
            "in bench/capacity/published.py"
        )
    return [float(each.replace(",", "")) for each in found.groups()]
