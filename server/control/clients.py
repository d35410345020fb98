"""Registry of every Envoy with a stream, and of those that had one recently."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from vireo.server.control.nodes import Node
from vireo.server.control.session import Session

MAX_GONE_NODES = 1000
"""Maximum remembered nodes without a stream; the limit of streams bounds the others."""


class Client(NamedTuple):
    """A node and its streams."""

    node: Node
    sessions: list[Session]
    """Its open streams (gRPC's client has one for each target), or the last one if none is open."""
    connected: bool


class Clients:
    """Every node, with its streams."""

    def __init__(self) -> None:
        """Start empty."""
        self._open: dict[str, list[Session]] = {}
        """Streams of each node that has any; the lists are replaced, never mutated."""
        self._gone: OrderedDict[str, Session] = OrderedDict()
        """The last stream of nodes without an open one, the longest disconnected first."""

    def begin(self, identity: str, cluster: str, user_agent: str) -> Session:
        """Return the session of a stream that starts, of the node with this id, known or new."""
        sessions = self._open.get(identity, [])
        last = sessions[-1] if sessions else self._gone.pop(identity, None)
        node = last.node if last else Node(identity)
        node.cluster, node.user_agent = cluster, user_agent
        session = Session(node)
        self._open[identity] = [*sessions, session]
        return session

    def end(self, session: Session) -> None:
        """Record that a stream has ended; only nodes without one are ever forgotten."""
        identity = session.node.identity
        others = [each for each in self._open[identity] if each is not session]
        if others:
            self._open[identity] = others
            return
        del self._open[identity]
        self._gone[identity] = session
        if len(self._gone) > MAX_GONE_NODES:
            self._gone.popitem(last=False)

    def all(self) -> list[Client]:
        """Return all nodes, sorted by id; safe to call from another thread, as scrapes do."""
        # A copy is made in one step; iterating over the dicts themselves would meet changes.
        connected, gone = [*self._open.values()], [*self._gone.values()]
        found = [Client(each[0].node, each, connected=True) for each in connected]
        found += [Client(each.node, [each], connected=False) for each in gone]
        return sorted(found, key=lambda client: client.node.identity)
