"""How much of each measurement there is."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.requests.batch import SHORT as SHORT_BATCH
from bench.requests.batch import BatchPlan
from bench.speed.plan import SpeedPlan


@dataclass(frozen=True)
class RequestsPlan:
    """All times in seconds."""

    positions: int = 1_000_000
    """Positions of slates that are compared with their filters."""
    max_degraded: float = 0.5
    """Maximum share of filtered slates that are degraded: fallback alone must not pass."""
    viewers: int = 1_000
    """Viewers who ask for page after page."""
    pages: int = 50
    """Pages of each."""
    callers: int = 8
    """Requests at a time."""
    calm: float = 4.0
    """Pause between two faults."""
    patience: float = 120.0
    """Maximum wait for anything."""
    timed: bool = True
    """Whether times are judged; a busy machine has none to judge."""
    batch: BatchPlan = field(default_factory=BatchPlan)
    share_rounds: int = 3
    share_seconds: float = 5.0
    """Length of each turn with and without a greedy caller, and once of that one alone."""
    large: str = "million"
    """Data set with a large catalogue, to search by filters."""
    search: SpeedPlan = field(default_factory=lambda: SpeedPlan(rounds=3, sample=200))
    """Rounds, and viewers to search with."""
    skips_missing: bool = False
    """Whether the search is left out if its data set wasn't trained, unless it is asked for."""


SHORT = RequestsPlan(
    positions=20_000,
    max_degraded=0.9,  # all may be asked for during one fault
    viewers=10,
    calm=1.0,
    patience=240.0,
    timed=False,
    batch=SHORT_BATCH,
    share_rounds=1,
    share_seconds=0.5,
    search=SpeedPlan(rounds=1, sample=20),
    skips_missing=True,
)
"""For CI: everything once and briefly; no time is judged."""
