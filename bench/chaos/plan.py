"""How much of each fault there is, and how long what must follow may take."""

from __future__ import annotations

from dataclasses import dataclass

_FIRST = ("candidate-1", "ranking-1", "gateway-1")
_SECOND = ("candidate-2", "ranking-2", "gateway-2")


@dataclass(frozen=True)
class ChaosPlan:
    """All times in seconds."""

    rate: float = 80.0
    """Requests a second of the steady load, if the stack sustains so many."""
    share: float = 0.4
    """At most this share of what the stack sustains: faults are not to be overload too."""
    deadline: float = 2.0
    """That each of them has."""
    viewers: int = 200
    quiet: float = 4.0
    """Load before a fault, to compare with."""
    settle: float = 2.0
    """Load after a fault and what it led to."""
    timed: bool = True
    """Whether the stated times are judged; else whatever must follow may take `patience`."""
    patience: float = 60.0
    """After which nothing is waited for any longer."""

    killed_requests: int = 20_000
    """Killing goes on for as many."""
    killed_pods: tuple[str, ...] = (*_FIRST, *_SECOND)
    """Killed in turn, each one time at least."""
    restarted_pods: tuple[str, ...] = (*_FIRST, *_SECOND)
    """Restarted one after another."""
    restart_rounds: int = 2
    """How often all of them are."""
    hang: float = 20.0
    hanging_pods: tuple[str, ...] = _FIRST
    faulty: float = 10.0
    """Of each kind of faulty pod."""
    outage: float = 6.0
    """Of all pods of a kind, or of the feature store."""
    control_outage: float = 60.0
    overload: float = 30.0
    cut: float = 12.0
    """Of a pod's network."""
    short_deadline: float = 0.005
    short_deadline_rate: float = 200.0
    """Requests a second; next to nothing is done for each."""
    short_deadline_seconds: float = 10.0

    watchers: int = 5000
    silent_calls: int = 1000
    abandoned_calls: int = 10_000
    attack_rate: float = 300.0
    """Watches, and silent calls, a second."""

    def within(self, stated: float) -> float:
        """Return the maximum seconds for what is stated to take `stated`."""
        return stated if self.timed else self.patience


SHORT = ChaosPlan(
    rate=15.0,
    deadline=8.0,
    viewers=20,
    quiet=1.0,
    settle=1.0,
    timed=False,
    patience=180.0,
    killed_requests=60,
    killed_pods=("candidate-1", "ranking-1"),
    restarted_pods=("gateway-1",),
    restart_rounds=1,
    hang=6.0,
    hanging_pods=("ranking-1",),
    faulty=3.0,
    outage=2.0,
    control_outage=4.0,
    overload=5.0,
    cut=6.0,
    short_deadline_rate=50.0,
    short_deadline_seconds=2.0,
    watchers=300,
    silent_calls=50,
    abandoned_calls=100,
)
"""The form for CI: each fault once and for a short time, and no time is judged."""
