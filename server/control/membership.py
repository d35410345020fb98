"""Which pods of a pool Envoy is told of: admitted when healthy, drained before they go."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from server.control.mesh import Endpoint, Members


@dataclass(frozen=True)
class Patience:
    """How long things may last, in seconds."""

    leave: float
    """How long a pod that is gone from discovery is told as draining."""
    empty: float
    """How long discovery must find none before a pool that had pods is emptied."""


class Counts(NamedTuple):
    """How many pods of a pool are in each state."""

    admitted: int
    unadmitted: int
    """Found, and not seen healthy yet."""
    draining: int


class Membership:
    """The pods of one pool. Times are seconds of one monotonic clock."""

    def __init__(self, patience: Patience, *, trusting: bool) -> None:
        """Takes the limits.

        Args:
            patience: see there.
            trusting: whether all pods are told while none has been seen healthy. A control
                plane that can't reach the pods itself then takes none away, and Envoy's own
                checks decide.
        """
        self._patience = patience
        self._trusting = trusting
        self._present: frozenset[Endpoint] = frozenset()
        self._admitted: set[Endpoint] = set()
        self._left_since: dict[Endpoint, float] = {}
        self._empty_since: float | None = None

    def found(self, endpoints: Collection[Endpoint], now: float) -> None:
        """Takes what discovery finds now."""
        if not endpoints and self._present:
            self._empty_since = now if self._empty_since is None else self._empty_since
            return
        self._empty_since = None
        self._present = frozenset(endpoints)

    def admit(self, endpoint: Endpoint) -> None:
        """Has a pod told; from then on Envoy's own checks say how it is."""
        if endpoint in self._present:
            self._admitted.add(endpoint)

    @property
    def waiting(self) -> frozenset[Endpoint]:
        """The pods that are not admitted yet."""
        return self._present - self._admitted

    def members(self, now: float) -> Members:
        """What Envoy is to be told at this moment."""
        if self._empty_since is not None and now - self._empty_since >= self._patience.empty:
            self._present, self._empty_since = frozenset(), None
            self._admitted.clear()  # all that time nobody vouched for them: no draining
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
        """How many pods are in each state, given what `members` has just answered."""
        admitted = members.active & self._admitted
        return Counts(len(admitted), len(self.waiting), len(members.draining))

    def _let_go(self, now: float, *, replaced: bool) -> None:
        """Begins to drain pods that are gone, once others have taken their place, and ends it."""
        for endpoint in self._admitted & self._present:
            self._left_since.pop(endpoint, None)
        for endpoint in self._admitted - self._present:
            if replaced:
                self._left_since.setdefault(endpoint, now)
            if now - self._left_since.get(endpoint, now) >= self._patience.leave and replaced:
                self._admitted.discard(endpoint)
                self._left_since.pop(endpoint, None)
