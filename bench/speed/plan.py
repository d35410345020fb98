"""Amounts of work in measurements of speed."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class SpeedPlan:
    """Amounts that all measurements share; what defines a measure is with the measure."""

    rounds: int = 5
    viewers: int = 40
    """Viewers whose slates are asked for."""
    requests: int = 1200
    """From many callers to each server in each round."""
    alone: int = 200
    """From one caller to each in each round; also runs of the viewer tower."""
    sample: int = 500
    """Viewers to search with, and to ask for before memory is read."""
    small: str = "thousands"
    """Data set with a small catalogue, to compare a large one with."""
    transport: str = "grpcio"
    """VIREO_TRANSPORT of the pods and of the bare chain."""

    def of_round(self, number: int) -> SpeedPlan:
        """Return the amounts of a round; the first, 0, only warms up."""
        return self if number else replace(self, requests=64, alone=16)
