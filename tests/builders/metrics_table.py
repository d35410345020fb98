"""The table of all metrics in `docs/metrics.md`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
PROCESSES = ("gateway", "candidate", "ranking", "consumer", "control")
_HEADER = "| metric | type | labels | meaning | processes |"


@dataclass(frozen=True)
class Row:
    """A documented metric."""

    name: str
    kind: str
    labels: frozenset[str]
    processes: frozenset[str]
    meaning: str


def documented() -> dict[str, Row]:
    """Return the rows of the page's tables, by the metrics' names."""
    rows: dict[str, Row] = {}
    inside = False
    for line in PAGE.read_text().splitlines():
        inside = line == _HEADER or (inside and line.startswith("|"))
        if not inside or line == _HEADER or line.startswith("|---"):
            continue
        name, kind, labels, meaning, processes = (cell.strip() for cell in line[1:-1].split("|"))
        rows[name.strip("`")] = Row(
            name.strip("`"),
            kind,
            _names(labels),
            frozenset(PROCESSES) if processes == "all" else _names(processes),
            meaning,
        )
    return rows


def _names(cell: str) -> frozenset[str]:
    return frozenset(name.strip() for name in cell.split(",") if name.strip())
