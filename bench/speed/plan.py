"""Amounts of work in measurements of speed."""

from __future__ import annotations

from dataclasses import dataclass, replace

CALLERS = (1, 8, 32)
"""Numbers of callers that chains are measured with: alone, busy, saturated."""


@dataclass(frozen=True)
class SpeedPlan:
    """Amounts that all measurements share; what defines a measure is with the measure."""

    rounds: int = 5
    viewers: int = 40
    """Viewers whose slates are asked for."""
    requests: int = 700
    """From many callers to each server in each round."""
    alone: int = 240
    """From one caller to each in each round; also runs of the viewer tower."""
    sample: int = 500
    """Viewers to search with, and to ask for before memory is read."""
    idle: float = 45.0
    """Seconds for which an idle stack is watched."""
    small: str = "thousands"
    """Data set with a small catalogue, to compare a large one with."""

    def requests_of(self, callers: int) -> int:
        """Return how many requests some callers send together."""
        return self.alone if callers == 1 else self.requests

    def of_round(self, number: int) -> SpeedPlan:
        """Return the amounts of a round; the first, 0, only warms up."""
        return self if number else replace(self, requests=64, alone=16)
