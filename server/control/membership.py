"""Membership of pods in a pool: admitted once healthy, drained before they are removed."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from server.control.mesh import Endpoint, Members


class Counts(NamedTuple):
    """Number of pods of a pool in each state."""

    admitted: int
    unadmitted: int
    """Pods found that have not been healthy yet."""
    draining: int


class Membership:
    """The pods of one pool. Times are seconds of the same monotonic clock."""

    def __init__(self, *, drain_seconds: float, empty_seconds: float, trusting: bool) -> None:
        """Start without pods.

        Args:
            drain_seconds: time for which a pod that is gone from discovery is draining.
            empty_seconds: time for which discovery must find no pod before a pool that had pods
                is emptied.
            trusting: whether all pods are members while none has been healthy. A control plane
                that can't reach the pods itself then removes none, and Envoy's own health checks
                decide.
        """
        self._drain_seconds = drain_seconds
        self._empty_seconds = empty_seconds
        self._trusting = trusting
        self._present: frozenset[Endpoint] = frozenset()
        self._admitted: set[Endpoint] = set()
        self._left_since: dict[Endpoint, float] = {}
        self._empty_since: float | None = None

    def found(self, endpoints: Collection[Endpoint], now: float) -> None:
        """Update the pods by what discovery finds now."""
        if endpoints or not self._present:
            self._present, self._empty_since = frozenset(endpoints), None
        elif self._empty_since is None:
            self._empty_since = now

    def admit(self, endpoint: Endpoint) -> None:
        """Admit a pod; from then on only Envoy's own health checks apply."""
        if endpoint in self._present:
            self._admitted.add(endpoint)

    @property
    def waiting(self) -> frozenset[Endpoint]:
        """The pods that are not admitted yet."""
        return self._present - self._admitted

    def is_settled(self) -> bool:
        """Return whether the members stay as they are until discovery finds other pods."""
        return self._admitted == self._present and self._empty_since is None

    def members(self, now: float) -> Members:
        """Return the members that Envoy must have now."""
        if self._empty_since is not None and now - self._empty_since >= self._empty_seconds:
            self._present, self._empty_since = frozenset(), None
            self._admitted.clear()  # missing for the whole grace period: no draining
            self._left_since.clear()
        current = self._present & self._admitted
        for endpoint in current:
            self._left_since.pop(endpoint, None)
        if current:  # pods that are gone drain only once others replace them
            for endpoint in self._admitted - self._present:
                if now - self._left_since.setdefault(endpoint, now) >= self._drain_seconds:
                    self._admitted.discard(endpoint)
                    del self._left_since[endpoint]
        draining = frozenset(self._left_since)
        active = frozenset(self._admitted - draining)
        if not active and self._trusting:
            active = self._present
        return Members(active, draining)

    def counts(self, members: Members) -> Counts:
        """Return the number of pods in each state, given the result of `members`."""
        admitted = members.active & self._admitted
        return Counts(len(admitted), len(self.waiting), len(members.draining))
