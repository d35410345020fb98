"""One line of a result: what was measured, what it must be, and whether it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Row:
    """One measure."""

    measure: str
    figure: float
    """The median over rounds, where there were several."""
    spread: tuple[float, float] | None = None
    """Least and most of the rounds."""
    bound: float | None = None
    """What the figure must not pass; None where it is only told."""
    at_least: bool = False
    """Whether the figure must reach the bound instead of keeping below."""
    section: str = ""
    """The measurement that it is of, where several were made: chain, tail, rank and so on."""

    @staticmethod
    def over_rounds(
        measure: str,
        figures: Sequence[float],
        bound: float | None = None,
        *,
        at_least: bool = False,
    ) -> Row:
        """The median of the rounds' figures, of which there is one at least."""
        low, high = min(figures), max(figures)
        return Row(measure, float(np.median(figures)), (low, high), bound, at_least)

    @property
    def holds(self) -> bool | None:
        """Whether the bound is kept; None where there is none."""
        if self.bound is None:
            return None
        return self.figure >= self.bound if self.at_least else self.figure <= self.bound

    def document(self) -> dict[str, Any]:
        """The row for programs."""
        return {**asdict(self), "holds": self.holds}
