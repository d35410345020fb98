"""One line of a result: a figure, its bound, and whether it holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console


@dataclass(frozen=True)
class Row:
    """One measure."""

    measure: str
    figure: float
    """The median over rounds, if there were several."""
    spread: tuple[float, float] | None = None
    """Minimum and maximum of the rounds."""
    bound: float | None = None
    """Maximum of the figure; None if there is no bound."""
    at_least: bool = False
    """Whether the bound is a minimum instead."""
    section: str = ""
    """The measurement that it belongs to: chain, tail, rank and so on."""

    @staticmethod
    def over_rounds(
        measure: str,
        figures: Sequence[float],
        bound: float | None = None,
        *,
        at_least: bool = False,
    ) -> Row:
        """Return the median of the rounds' figures, with their range."""
        spread = (min(figures), max(figures))
        return Row(measure, float(np.median(figures)), spread, bound, at_least)

    @property
    def holds(self) -> bool | None:
        """Whether the bound is kept; None if there is none."""
        if self.bound is None:
            return None
        return self.figure >= self.bound if self.at_least else self.figure <= self.bound

    @property
    def bound_text(self) -> str:
        """The bound with its direction, for people; empty if there is none."""
        return "" if self.bound is None else f"{'≥' if self.at_least else '≤'} {self.bound}"

    def document(self) -> dict[str, Any]:
        """Return the row for programs."""
        return {**asdict(self), "holds": self.holds}


class Figures:
    """One figure of each measure for each round."""

    def __init__(self, console: Console) -> None:
        """Start without figures; progress is shown on `console`."""
        self._console = console
        self._values: dict[str, list[float]] = defaultdict(list)
        self._bounds: dict[str, tuple[float | None, bool]] = {}

    def rounds(self, count: int) -> Iterator[int]:
        """Yield 0 for a round that only warms up, and then the number of each that counts."""
        yield 0
        self._values.clear()
        for number in range(1, count + 1):
            yield number
            self._console.print(f"round {number} of {count} done")

    def add(
        self, measure: str, figure: float, bound: float | None = None, *, at_least: bool = False
    ) -> None:
        """Add a figure of this round; for `bound` and `at_least` see `Row`."""
        self._values[measure].append(figure)
        self._bounds[measure] = (bound, at_least)

    def rows(self) -> list[Row]:
        """Return a row for each measure: the median of the rounds, with their range."""
        return [
            Row.over_rounds(measure, each, bound, at_least=at_least)
            for measure, each in self._values.items()
            for bound, at_least in [self._bounds[measure]]
        ]
