"""Names the conditions that explain the facts, the likeliest first."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

from vireo.ops.doctor.causes import load, parts, processes
from vireo.ops.doctor.conditions import LEVELS, Finding, conditions
from vireo.ops.doctor.facts import Facts

Cause: TypeAlias = Callable[[Facts], Iterator[Finding]]


def diagnose(facts: Facts) -> list[Finding]:
    """Return all findings: by level, what explains others before what follows from it.

    What lasts comes before what was seen a moment ago, and that before what is longer ago.
    """
    table = conditions()
    seen = [finding for cause in _causes() for finding in cause(facts)]
    seen.sort(key=lambda each: (LEVELS.index(each.level), table[each.cause].order))
    roots: list[str] = []
    explained = []
    for finding in seen:
        by = next((root for root in roots if finding.cause in table[root].explains), "")
        explained.append(replace(finding, follows_from=by))
        if not by:
            roots.append(finding.cause)
    return sorted(
        explained,
        key=lambda each: (LEVELS.index(each.level), bool(each.follows_from), each.since),
    )


def _causes() -> Iterator[Cause]:
    """Yield every cause: each public generator that a module of causes defines is one."""
    for module in (load, parts, processes):
        for name, each in inspect.getmembers(module, inspect.isgeneratorfunction):
            if each.__module__ == module.__name__ and not name.startswith("_"):
                yield each
