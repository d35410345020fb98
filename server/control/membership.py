"""Membership of pods in a pool: admitted once healthy, drained before they are removed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from server.control.mesh import Endpoint, Members


@dataclass(frozen=True)
class Patience:
    """Grace periods in seconds."""

    leave: float
    """Seconds for which a pod that is gone from discovery is draining before it is removed."""
    empty: float
    """Seconds for which discovery must find no pod before a pool that had pods is emptied."""


class Counts(NamedTuple):
    """Number of pods of a pool in each state."""

    admitted: int
    unadmitted: int
    """Pods found that have not been healthy yet."""
    draining: int


class Membership:
    """The pods of one pool. Times are seconds of the same monotonic clock."""

    def __init__(self, patience: Patience, *, trusting: bool) -> None:
        """Start without pods.

        Args:
            patience: grace periods.
            trusting: whether all pods are members while none has been healthy. A control plane
                that can't reach the pods itself then removes none, and Envoy's own health checks
                decide.
        """
        self._patience = patience
        self._trusting = trusting
        self._present: frozenset[Endpoint] = frozenset()
        self._admitted: set[Endpoint] = set()
        self._left_since: dict[Endpoint, float] = {}
        self._empty_since: float | None = None

    def found(self, endpoints: Collection[Endpoint], now: float) -> None:
        """Update the pods by what discovery finds now."""
        if not endpoints and self._present:
            self._empty_since = now if self._empty_since is None else self._empty_since
            return
        self._empty_since = None
        self._present = frozenset(endpoints)

    def admit(self, endpoint: Endpoint) -> None:
        """Admit a pod; from then on only Envoy's own health checks apply."""
        if endpoint in self._present:
            self._admitted.add(endpoint)

    @property
    def waiting(self) -> frozenset[Endpoint]:
        """The pods that are not admitted yet."""
        return self._present - self._admitted

    def members(self, now: float) -> Members:
        """Return the members that Envoy must have now."""
        if self._empty_since is not None and now - self._empty_since >= self._patience.empty:
            self._present, self._empty_since = frozenset(), None
            self._admitted.clear()  # missing for the whole grace period: no draining
            self._left_since.clear()
        current = self._present & self._admitted
        self._let_go(now, replaced=bool(current))
        gone = self._admitted - self._present
        draining = frozenset(each for each in gone if each in self._left_since)
        active = current | (gone - draining)
        if not active and self._trusting:
            active = self._present
        return Members(frozenset(active), draining)

    def counts(self, members: Members) -> Counts:
        """Return the number of pods in each state, given the result of `members`."""
        admitted = members.active & self._admitted
        return Counts(len(admitted), len(self.waiting), len(members.draining))

    def _let_go(self, now: float, *, replaced: bool) -> None:
        """Start and finish draining pods that are gone, once they are replaced by others."""
        for endpoint in self._admitted & self._present:
            self._left_since.pop(endpoint, None)
        for endpoint in self._admitted - self._present:
            if replaced:
                self._left_since.setdefault(endpoint, now)
            if now - self._left_since.get(endpoint, now) >= self._patience.leave and replaced:
                self._admitted.discard(endpoint)
                self._left_since.pop(endpoint, None)
