"""How much there is of each fault and of clean load, and the time limits."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.chaos.plan import ChaosPlan

SHORT_CASES = (3,)
"""What CI runs: a pod that hangs."""


@dataclass(frozen=True)
class AlertsPlan:
    """All times in seconds."""

    clean: float = 3600.0
    """Load without a fault; none if 0."""
    warm: float = 20.0
    """Load before anything is judged: rates need a few samples."""
    fires: float = 60.0
    """Maximum from a fault's start until its alert fires."""
    watched: float = 90.0
    """How long it is waited for, to tell a late alert from none."""
    resolves: float = 150.0
    """Maximum from a fault's end until its alert has resolved: rates look back a minute."""
    tolerated: float = 30.0
    """How long after a fault that may fire no alert these are watched."""
    disregarded: frozenset[str] = frozenset()
    """Alerts that may fire without a fault."""
    faults: ChaosPlan = field(
        default_factory=lambda: ChaosPlan(
            rate=20.0,
            event_rate=20.0,
            patience=120.0,
            settle=1.0,
            overload=45.0,
            behind=100_000,
        )
    )


SHORT = AlertsPlan(
    clean=30.0,
    warm=10.0,
    fires=180.0,
    watched=180.0,
    resolves=240.0,
    disregarded=frozenset({"VireoSlatesSlow"}),
    faults=ChaosPlan(
        rate=10.0, event_rate=20.0, deadline=8.0, viewers=20, patience=180.0, timed=False
    ),
)
"""For CI: half a minute of clean load; no time is judged."""
