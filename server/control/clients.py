"""What each Envoy wants, has and has NACKed, and from that the next push to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog
from prometheus_client import Counter

from vireo.server.control.snapshot import (
    CLUSTER,
    ENDPOINTS,
    KINDS,
    LISTENER,
    REMOVAL_ORDER,
    ROUTES,
    WARMING_ORDER,
    Resource,
    Snapshot,
    version_of,
)
from vireo.server.errors import VireoError

log = structlog.get_logger()

PUSHES = Counter("vireo_xds_pushes", "Responses sent to clients, by kind.", ["kind"])
ACKS = Counter("vireo_xds_acks", "Responses that clients ACKed, by kind.", ["kind"])
NACKS = Counter("vireo_xds_nacks", "Responses that clients NACKed, by kind.", ["kind"])
for _counter in (PUSHES, ACKS, NACKS):
    for _kind in KINDS.values():  # so that each is exported as 0 before the first event
        _counter.labels(_kind)

MAX_GONE = 1000
"""Maximum remembered clients without a stream; the limit of streams bounds the others."""
MAX_NAMES = 1000
"""Maximum resources of one kind that a stream may name; a mesh has some ten of each."""
MAX_NAME_LENGTH = 256
MAX_MESSAGE_LENGTH = 8192
"""Maximum characters kept of an error message."""

_WILDCARD = (CLUSTER, LISTENER)
"""Kinds of which every client gets all resources; of the others it gets those that it names."""
# An Envoy ACKs clusters only once they are warm, for which it needs their endpoints: so endpoints
# don't wait for that, but resources that refer to clusters do.
_WAITS_FOR: Mapping[str, tuple[str, ...]] = {
    CLUSTER: (),
    ENDPOINTS: (),
    LISTENER: (CLUSTER, ENDPOINTS),
    ROUTES: (CLUSTER, ENDPOINTS),
}


class ClientLimitError(VireoError):
    """A client names too many resources."""


@dataclass(frozen=True)
class Nack:
    """The rejection of one resource."""

    version: str
    message: str
    """The client's error message."""
    at: datetime


@dataclass(frozen=True)
class Push:
    """A response to send."""

    kind: str
    nonce: str
    version: str
    """Version of all that the client has of this kind once it has ACKed the response."""
    resources: Mapping[str, Resource]
    removed: frozenset[str]


@dataclass
class Subscription:
    """What one stream wants and has of a kind of resource."""

    names: set[str] = field(default_factory=set)
    """Names that it has asked for, if the kind isn't in _WILDCARD."""
    has: dict[str, str] = field(default_factory=dict)
    """Version of each resource that the client has ACKed, by name."""
    acked_at: dict[str, datetime] = field(default_factory=dict)
    unanswered: set[str] = field(default_factory=set)
    """Names that need a response even if there is no such resource."""
    one_by_one: bool = False
    """Whether to send one resource at a time, to find which of several is rejected."""
    pending: Push | None = None
    """The response that was sent and neither ACKed nor NACKed yet."""

    def settle(self, nonce: str) -> Push | None:
        """Return the pending response, now answered; None if the nonce isn't that response's."""
        if self.pending is None or self.pending.nonce != nonce:
            return None
        push, self.pending = self.pending, None
        for name in push.removed:  # also by a NACK: a removal is never repeated
            self.has.pop(name, None)
        return push


class Client:
    """An Envoy, identified by the id in its bootstrap. It outlives its streams."""

    def __init__(self, identity: str) -> None:
        """Start without resources and without a stream."""
        self.identity = identity
        self.cluster = self.user_agent = ""
        self.good: dict[str, dict[str, Resource]] = {kind: {} for kind in WARMING_ORDER}
        """The last ACKed version of each resource, which is sent instead of a NACKed one."""
        self.nacks: dict[str, dict[str, Nack]] = {kind: {} for kind in WARMING_ORDER}
        """The NACK of each resource that it has rejected, by name."""
        self.streams = 0
        """Number of its open streams; more than one if it reconnects before the old one ends."""
        self.session = Session(self)
        """State of its newest stream."""


class Session:
    """State of one stream."""

    def __init__(self, client: Client) -> None:
        """Start the stream of a client."""
        self.client = client
        self.subscriptions: dict[str, Subscription] = {}
        self._nonces = 0

    # Requests of the client.

    def change(
        self,
        kind: str,
        subscribe: Collection[str],
        unsubscribe: Collection[str],
        has: Mapping[str, str],
    ) -> None:
        """Change the subscription; `has` are versions kept from an earlier stream.

        Raises:
            ClientLimitError: it names too many resources, or one with a long name.
        """
        first = kind not in self.subscriptions
        known = self.subscriptions.setdefault(kind, Subscription())
        asked, left = {*subscribe} - {"*"}, {*unsubscribe}
        if max(len(known.names | asked), len(has)) > MAX_NAMES:
            raise ClientLimitError(f"more than {MAX_NAMES} resources of one kind")
        if any(len(name) > MAX_NAME_LENGTH for name in (*asked, *has)):
            raise ClientLimitError(f"a resource name of more than {MAX_NAME_LENGTH} characters")
        if known.pending and (asked | left) & known.pending.resources.keys():
            # The client may have dropped those, so that an ACK would say nothing of them.
            known.pending = None
        for name in asked | left:
            known.has.pop(name, None)
        # Endpoints are sent again on every stream: their cluster may have been replaced meanwhile.
        if first and kind != ENDPOINTS:
            known.has.update(has)
        if kind not in _WILDCARD:
            known.names = (known.names | asked) - left
            known.unanswered = (known.unanswered | asked - known.has.keys()) - left
        # What is requested anew must be sent, and the client may accept it by now, for example
        # after a restart with another build.
        anew = {*self.client.nacks[kind]} if first and kind in _WILDCARD else asked
        for name in anew - self.client.good[kind].keys():
            self.client.nacks[kind].pop(name, None)

    def ack(self, kind: str, nonce: str) -> None:
        """Record an ACK of the response with `nonce`; stale nonces are ignored."""
        known = self.subscriptions.get(kind)
        push = known.settle(nonce) if known else None
        if not known or not push:
            return
        ACKS.labels(KINDS[kind]).inc()
        for name, resource in push.resources.items():
            if known.has.get(name) != resource.version:
                known.has[name], known.acked_at[name] = resource.version, _now()
            self.client.good[kind][name] = resource
            nack = self.client.nacks[kind].get(name)
            if nack and nack.version == resource.version:
                del self.client.nacks[kind][name]

    def nack(self, kind: str, nonce: str, message: str) -> None:
        """Record a NACK of the response with `nonce`, with the client's error message."""
        known = self.subscriptions.get(kind)
        push = known.settle(nonce) if known else None
        if not known or not push:
            return
        NACKS.labels(KINDS[kind]).inc()
        message = message[:MAX_MESSAGE_LENGTH]
        log.warning("response NACKed", node=self.client.identity, kind=kind, message=message)
        if len(push.resources) > 1:
            known.one_by_one = True
            return
        for name, resource in push.resources.items():
            self.client.nacks[kind][name] = Nack(resource.version, message, _now())
            good = self.client.good[kind].get(name)
            if good and good.version == resource.version:
                # No longer accepted, for example by a client of another build.
                del self.client.good[kind][name]

    # Responses to the client.

    def next(self, snapshot: Snapshot) -> Push | None:
        """Return the next push towards this snapshot; None if there is none for now.

        New and changed resources come first, in WARMING_ORDER; removals follow in REMOVAL_ORDER
        once the client has ACKed all of them.
        """
        for kind, nacks in self.client.nacks.items():
            current = snapshot.resources[kind]
            for name in [*nacks]:  # what has changed since is sent again
                if name not in current or current[name].version != nacks[name].version:
                    del nacks[name]
        for kind in WARMING_ORDER:
            if not self._pending(kind, *_WAITS_FOR[kind]):
                push = self._difference(kind, snapshot, removing=False)
                if push is not None:
                    return push
        if self._pending(*WARMING_ORDER):
            return None
        # A client that has NACKed listeners or routes may still use removed clusters.
        keeps_clusters = self.client.nacks[LISTENER] or self.client.nacks[ROUTES]
        for kind in (LISTENER, ROUTES) if keeps_clusters else REMOVAL_ORDER:
            push = self._difference(kind, snapshot, removing=True)
            if push is not None:
                return push
        return None

    def _pending(self, *kinds: str) -> bool:
        """Return whether a response of one of these kinds is pending."""
        return any(
            kind in self.subscriptions and self.subscriptions[kind].pending for kind in kinds
        )

    def _difference(self, kind: str, snapshot: Snapshot, *, removing: bool) -> Push | None:
        """Return the push of what the client lacks, and has too much if `removing`."""
        known = self.subscriptions.get(kind)
        if known is None:
            return None
        current = {
            name: each
            for name, each in snapshot.resources[kind].items()
            if kind in _WILDCARD or name in known.names
        }
        nacked, good = self.client.nacks[kind], self.client.good[kind]
        target = {
            name: good[name] if name in nacked else each
            for name, each in current.items()
            if name not in nacked or name in good
        }
        news = {name: each for name, each in target.items() if known.has.get(name) != each.version}
        removed = frozenset(known.has) - current.keys() if removing else frozenset()
        removed |= known.unanswered - current.keys()
        if not (news or removed):
            known.one_by_one = False
            return None
        if known.one_by_one:
            news = dict([*news.items()][:1])
        if kind == CLUSTER and ENDPOINTS in self.subscriptions:
            for name in news:  # a replaced cluster becomes warm only with its endpoints
                self.subscriptions[ENDPOINTS].has.pop(name, None)
        return self._push(known, kind, news, removed)

    def _push(
        self,
        known: Subscription,
        kind: str,
        resources: Mapping[str, Resource],
        removed: frozenset[str],
    ) -> Push:
        self._nonces += 1
        after = {name: version for name, version in known.has.items() if name not in removed}
        after |= {name: each.version for name, each in resources.items()}
        push = Push(kind, str(self._nonces), version_of(after), resources, removed)
        known.pending = push
        known.unanswered -= {*resources, *removed}
        PUSHES.labels(KINDS[kind]).inc()
        return push


class Clients:
    """Every Envoy with a stream, and those that had one recently."""

    def __init__(self) -> None:
        """Start empty."""
        self._known: dict[str, Client] = {}
        """By id; of those without a stream, the longest disconnected first."""

    def begin(self, identity: str, cluster: str, user_agent: str) -> Session:
        """Return the session of a stream that begins, of the client with this id."""
        client = self._known.setdefault(identity, Client(identity))
        client.cluster, client.user_agent = cluster, user_agent
        client.streams += 1
        client.session = Session(client)
        return client.session

    def end(self, session: Session) -> None:
        """Record that a stream has ended; only clients without one are ever forgotten."""
        client = session.client
        client.streams -= 1
        if client.streams:
            return
        self._known[client.identity] = self._known.pop(client.identity)
        gone = [each.identity for each in self._known.values() if not each.streams]
        for identity in gone[:-MAX_GONE]:
            del self._known[identity]

    def all(self) -> list[Client]:
        """Return all clients, sorted by id; safe to call from another thread, as scrapes do."""
        return sorted([*self._known.values()], key=lambda client: client.identity)


def _now() -> datetime:
    return datetime.now(UTC)
