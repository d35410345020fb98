"""How much to do in measurements of speed."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class SpeedPlan:
    """Amounts that all measurements share; what defines a measure is with the measure."""

    rounds: int = 5
    viewers: int = 40
    """Whose slates are asked for."""
    requests: int = 1200
    """To each server in each round by many callers."""
    alone: int = 200
    """To each in each round by one caller; also runs of the viewer tower."""
    sample: int = 500
    """Viewers whose vectors are searched with, and who are asked for before memory is read."""
    peers: bool = True
    """Whether peers take part; those whose environment isn't made are left out."""
    small: str = "thousands"
    """Data set with a small catalogue, to compare a large one with."""

    def of_round(self, number: int) -> SpeedPlan:
        """Return the amounts of a round; the first, 0, only warms up."""
        return self if number else replace(self, requests=64, alone=16)
