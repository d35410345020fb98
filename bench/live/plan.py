"""How much of each measurement there is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LivePlan:
    """All times in seconds."""

    rate: float = 1_000.0
    """Events a second that come in beside."""
    patience: float = 120.0
    """Maximum wait for anything."""
    timed: bool = True
    """Whether times are judged; a busy machine has none to judge."""

    viewers: int = 200
    """Viewers whose plays are timed."""
    messages: int = 20_000
    """Messages that are appended to the log alone, while its servers are killed."""
    events: int = 200_000
    """Events that are recorded through the edge while its processes are killed."""
    hiding: int = 1_000
    """Viewers who hide a video."""
    videos: int = 20
    """Videos that are added and timed."""
    upserts: int = 100_000
    """Videos that are added for pods' memory."""
    rounds: int = 11
    """Rounds of slates with and without events beside them: short ones, so that what else the
    machine does meets both alike."""
    seconds: float = 3.0
    """Length of each."""
    stores: tuple[str, ...] = ("sqlite", "redis")
    """Online stores with which plays are timed."""


SHORT = LivePlan(
    rate=200.0,
    patience=240.0,
    timed=False,
    viewers=20,
    messages=2_000,
    events=4_000,
    hiding=20,
    videos=3,
    upserts=1_000,
    rounds=1,
    seconds=3.0,
    stores=("sqlite",),
)
"""For CI: everything once and briefly; no time is judged."""
