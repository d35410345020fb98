"""A page of metrics at two moments, and how a part may fail to answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

Fault = Literal["", "refused", "unreachable", "silent", "failed", "locked", "missing"]
"""How a part failed to answer: nothing listens there; no packet comes back; it accepts and stays
silent; it says that it can't; another program has locked it; what it should hold isn't there. Empty
if it answered well."""

Labels = Mapping[str, str]
Samples = Mapping[str, tuple[tuple[Labels, float], ...]]
"""Samples of a page of metrics, by name."""


@dataclass(frozen=True)
class Page:
    """The metrics of one process, at both ends of the window."""

    source: str
    """The process's name, or the page's URL."""
    now: Samples = field(default_factory=dict)
    before: Samples = field(default_factory=dict)
    seconds: float = 0.0
    """Seconds between the two; 0 if there is only one."""
    fault: Fault = ""
    problem: str = ""
    read_at: float = 0.0
    """Unix seconds of the later one; 0 if unknown."""

    def has(self, name: str) -> bool:
        """Return whether the metric is there."""
        return name in self.now

    def samples(self, name: str, **labels: str) -> Iterator[tuple[Labels, float]]:
        """Yield the samples of a metric with these labels."""
        yield from _matching(self.now, name, labels)

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the metric's samples with these labels."""
        return sum(value for _, value in _matching(self.now, name, labels))

    def increase(self, name: str, **labels: str) -> float:
        """Return by how much that sum grew; a process that restarted began at 0."""
        now = self.value(name, **labels)
        before = sum(value for _, value in _matching(self.before, name, labels))
        return now - before if now >= before else now


def _matching(samples: Samples, name: str, labels: Labels) -> Iterator[tuple[Labels, float]]:
    for found, value in samples.get(name, ()):
        if labels.items() <= found.items():
            yield found, value
