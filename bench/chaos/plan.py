"""How much of each fault there is, and the time limits."""

from __future__ import annotations

from dataclasses import dataclass

_FIRST = ("candidate-1", "ranking-1", "gateway-1")
_SECOND = ("candidate-2", "ranking-2", "gateway-2")


@dataclass(frozen=True)
class ChaosPlan:
    """All times in seconds."""

    rate: float = 80.0
    """Requests a second of the steady load, at most `share` of what the stack sustains."""
    share: float = 0.4
    deadline: float = 2.0
    viewers: int = 200
    quiet: float = 4.0
    """Load before a fault, to compare with."""
    settle: float = 2.0
    """Load after a fault."""
    timed: bool = True
    """Whether stated times are judged; else anything may take `patience`."""
    patience: float = 60.0
    """Maximum wait for anything."""

    killed_requests: int = 20_000
    """Minimum requests while pods are killed."""
    killed_pods: tuple[str, ...] = (*_FIRST, *_SECOND)
    """Killed in turn, each once at least."""
    restarted_pods: tuple[str, ...] = (*_FIRST, *_SECOND)
    restart_rounds: int = 2
    hang: float = 20.0
    hanging_pods: tuple[str, ...] = _FIRST
    faulty: float = 10.0
    """Time with each kind of faulty pod."""
    outage: float = 6.0
    """Time without a kind of pod, or the feature store."""
    control_outage: float = 60.0
    overload: float = 30.0
    crowd: float = 10.0
    """Time of callers who repeat at once."""
    hurry: float = 25.0
    """Time of callers with short deadlines who repeat at once."""
    ended: float = 2.0
    """Time after an overload from which no call of few callers may be lost."""
    ended_requests: int = 320
    """Calls from then on that are judged."""
    cut: float = 12.0
    """Time without network."""
    short_deadline: float = 0.005
    short_deadline_rate: float = 200.0
    """Requests a second."""
    short_deadline_seconds: float = 10.0

    watchers: int = 5000
    silent_calls: int = 1000
    abandoned_calls: int = 10_000
    attack_rate: float = 300.0
    """Watches, and silent calls, a second."""

    event_rate: float = 200.0
    """Events a second."""
    log_kills: int = 3
    log_outage: float = 60.0
    consumer_kills: int = 3
    behind: int = 40_000
    """Events that are recorded without a consumer."""
    store_outage: float = 8.0
    """Time without an online store, or with one that can't be written."""
    killed_gateways: tuple[str, ...] = 2 * ("gateway-1", "gateway-2")
    """Killed in turn while events come in."""

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
    killed_pods=_FIRST,
    restarted_pods=("gateway-1",),
    restart_rounds=1,
    hang=6.0,
    hanging_pods=("ranking-1",),
    faulty=3.0,
    outage=2.0,
    control_outage=4.0,
    overload=5.0,
    crowd=1.0,
    hurry=2.0,
    ended=0.5,
    ended_requests=60,
    cut=6.0,
    short_deadline_rate=50.0,
    short_deadline_seconds=2.0,
    watchers=300,
    silent_calls=50,
    abandoned_calls=100,
    log_kills=1,
    log_outage=4.0,
    consumer_kills=1,
    behind=2_000,
    store_outage=2.0,
    killed_gateways=("gateway-1",),
)
"""For CI: each fault once and briefly; no time is judged."""
