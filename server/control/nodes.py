"""What is known of each Envoy beyond one stream: what it took last, what it refused and why."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from server.control.snapshot import WARMING_ORDER, Resource, Snapshot

if TYPE_CHECKING:
    from server.control.session import Session

MAX_GONE_NODES = 1000
"""Nodes without a stream that are remembered; those with one are bounded by the streams."""


@dataclass(frozen=True)
class Refusal:
    """A NACK."""

    versions: Mapping[str, str]
    """The resources that it may mean, by name, in the version that was refused."""
    words: str
    """Why, in the client's own words."""
    at: datetime

    def names_in_words(self) -> frozenset[str]:
        """Those of the resources that the words name."""
        return frozenset(
            name
            for name in self.versions
            if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", self.words)
        )

    def stands(self, current: Mapping[str, Resource]) -> bool:
        """Whether all that was refused is still what the client should have."""
        return all(
            name in current and current[name].version == version
            for name, version in self.versions.items()
        )


@dataclass
class Node:
    """One Envoy, by the id in its bootstrap. It outlives its streams."""

    identity: str
    cluster: str = ""
    user_agent: str = ""
    sessions: list[Session] = field(default_factory=list)
    """Its streams, of which gRPC's client has one for each target; the last one if none lasts."""
    good: dict[str, dict[str, Resource]] = field(
        default_factory=lambda: {kind: {} for kind in WARMING_ORDER}
    )
    """The last version of each resource that it took: what it is given instead of a refused one."""
    refusals: dict[str, list[Refusal]] = field(
        default_factory=lambda: {kind: [] for kind in WARMING_ORDER}
    )

    @property
    def connected(self) -> bool:
        """Whether any stream of it lasts."""
        return any(session.live for session in self.sessions)

    def begin(self, session: Session) -> None:
        """Takes down that a stream has begun."""
        self.sessions = [*(each for each in self.sessions if each.live), session]

    def end(self, session: Session) -> None:
        """Takes down that a stream has ended."""
        session.live = False
        if self.connected:
            self.sessions.remove(session)

    def refuse(self, kind: str, refusal: Refusal) -> None:
        """Takes down that resources were refused, in place of what it said of them before."""
        others = [
            each
            for each in self.refusals[kind]
            if not each.versions.keys() <= refusal.versions.keys()
        ]
        self.refusals[kind] = [*others, refusal]
        good = self.good[kind]
        for name, version in refusal.versions.items():
            if name in good and good[name].version == version:
                del good[name]  # it is no longer: a client of another build, say

    def forgive(self, kind: str, names: Collection[str] | None = None) -> None:
        """Forget the refusals of what it asks for anew and has no good version of.

        To answer nothing at all would break the protocol. It may take it by now: it was
        restarted with another build, say. What was refused with it is tried again as well.

        Args:
            kind: the kind of resource.
            names: what it asks for; all if None.
        """
        good = self.good[kind]
        self.refusals[kind] = [
            each
            for each in self.refusals[kind]
            if not any(
                name not in good and (names is None or name in names) for name in each.versions
            )
        ]

    def take(self, kind: str, resources: Mapping[str, Resource]) -> None:
        """Takes down that resources were accepted, perhaps some that were refused before."""
        self.good[kind].update(resources)
        self.refusals[kind] = [
            each
            for each in self.refusals[kind]
            if not any(
                name in resources and resources[name].version == version
                for name, version in each.versions.items()
            )
        ]

    def review(self, snapshot: Snapshot) -> None:
        """Forgets the refusals of what has changed since: that is worth another try."""
        for kind, refusals in self.refusals.items():
            current = snapshot.resources[kind]
            self.refusals[kind] = [each for each in refusals if each.stands(current)]

    def refused(self, kind: str) -> dict[str, Refusal]:
        """The resources of a kind that it has refused as they are now."""
        return {name: each for each in self.refusals[kind] for name in each.versions}


class Nodes:
    """Every Envoy with a stream, and those that had one of late."""

    def __init__(self) -> None:
        """Makes an empty registry."""
        self._connected: dict[str, Node] = {}
        self._gone: OrderedDict[str, Node] = OrderedDict()
        """Those without a stream, the one that lost it first at the front."""

    def connected(self, identity: str, cluster: str, user_agent: str) -> Node:
        """Return the node with this id, known from before or new, which is to begin a stream."""
        node = self._connected.get(identity) or self._gone.pop(identity, None) or Node(identity)
        node.cluster, node.user_agent = cluster, user_agent
        self._connected[identity] = node
        return node

    def ended(self, session: Session) -> None:
        """Note that a stream has ended; only nodes without one are ever forgotten."""
        node = session.node
        node.end(session)
        if node.connected:
            return
        del self._connected[node.identity]
        self._gone[node.identity] = node
        while len(self._gone) > MAX_GONE_NODES:
            self._gone.popitem(last=False)

    def all(self) -> list[Node]:
        """Return all of them, by id."""
        nodes = [*self._connected.values(), *self._gone.values()]
        return sorted(nodes, key=lambda node: node.identity)


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)
