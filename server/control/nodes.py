"""State of each Envoy across streams: the resources that it last ACKed and those it NACKed."""

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
"""Maximum remembered nodes without a stream; the limit of streams bounds the others."""


@dataclass(frozen=True)
class Refusal:
    """A NACK."""

    versions: Mapping[str, str]
    """Versions of the refused resources, by name; only some of them may be at fault."""
    words: str
    """The client's error message."""
    at: datetime

    def names_in_words(self) -> frozenset[str]:
        """Return the resources that the error message names."""
        return frozenset(
            name
            for name in self.versions
            if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", self.words)
        )

    def stands(self, current: Mapping[str, Resource]) -> bool:
        """Return whether all refused versions are still current."""
        return all(
            name in current and current[name].version == version
            for name, version in self.versions.items()
        )


@dataclass
class Node:
    """An Envoy, identified by the id in its bootstrap. It outlives its streams."""

    identity: str
    cluster: str = ""
    user_agent: str = ""
    sessions: list[Session] = field(default_factory=list)
    """Its open streams (gRPC's client has one for each target), or the last one if none is open."""
    good: dict[str, dict[str, Resource]] = field(
        default_factory=lambda: {kind: {} for kind in WARMING_ORDER}
    )
    """The last ACKed version of each resource, which is sent instead of a refused one."""
    refusals: dict[str, list[Refusal]] = field(
        default_factory=lambda: {kind: [] for kind in WARMING_ORDER}
    )

    @property
    def connected(self) -> bool:
        """Whether it has an open stream."""
        return any(session.live for session in self.sessions)

    def begin(self, session: Session) -> None:
        """Record that a stream has started."""
        self.sessions = [*(each for each in self.sessions if each.live), session]

    def end(self, session: Session) -> None:
        """Record that a stream has ended."""
        session.live = False
        if self.connected:
            self.sessions.remove(session)

    def refuse(self, kind: str, refusal: Refusal) -> None:
        """Record a refusal, in place of earlier refusals of the same resources."""
        others = [
            each
            for each in self.refusals[kind]
            if not each.versions.keys() <= refusal.versions.keys()
        ]
        self.refusals[kind] = [*others, refusal]
        good = self.good[kind]
        for name, version in refusal.versions.items():
            if name in good and good[name].version == version:
                del good[name]  # no longer accepted, for example by a client of another build

    def forgive(self, kind: str, names: Collection[str] | None = None) -> None:
        """Forget the refusals of resources that are requested anew and have no good version.

        The protocol requires a response, and the client may accept it by now, for example after a
        restart with another build. Resources refused together with it are retried as well.

        Args:
            kind: the kind of resource.
            names: the requested resources; all if None.
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
        """Record that resources were accepted, which clears refusals of the same versions."""
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
        """Forget the refusals of resources that have changed since, so that they are retried."""
        for kind, refusals in self.refusals.items():
            current = snapshot.resources[kind]
            self.refusals[kind] = [each for each in refusals if each.stands(current)]

    def refused(self, kind: str) -> dict[str, Refusal]:
        """Return the refusal of each resource of a kind that it refuses, by name."""
        return {name: each for each in self.refusals[kind] for name in each.versions}


class Nodes:
    """Registry of every Envoy with a stream, and of those that had one recently."""

    def __init__(self) -> None:
        """Start empty."""
        self._connected: dict[str, Node] = {}
        self._gone: OrderedDict[str, Node] = OrderedDict()
        """Nodes without a stream, the longest disconnected first."""

    def connected(self, identity: str, cluster: str, user_agent: str) -> Node:
        """Return the node with this id, known or new, for a stream that starts."""
        node = self._connected.get(identity) or self._gone.pop(identity, None) or Node(identity)
        node.cluster, node.user_agent = cluster, user_agent
        self._connected[identity] = node
        return node

    def ended(self, session: Session) -> None:
        """Record that a stream has ended; only nodes without one are ever forgotten."""
        node = session.node
        node.end(session)
        if node.connected:
            return
        del self._connected[node.identity]
        self._gone[node.identity] = node
        while len(self._gone) > MAX_GONE_NODES:
            self._gone.popitem(last=False)

    def all(self) -> list[Node]:
        """Return all nodes, sorted by id."""
        nodes = [*self._connected.values(), *self._gone.values()]
        return sorted(nodes, key=lambda node: node.identity)


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)
