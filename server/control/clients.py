"""What each Envoy wants, has and has NACKed on its stream, and from that the next push to it."""

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
    """A response to send: one resource, or names of some that are gone."""

    kind: str
    nonce: str
    version: str
    """Version of all that the client has of this kind once it has ACKed the response."""
    resource: Resource | None
    removed: frozenset[str]


@dataclass
class Subscription:
    """What one client wants and has of a kind of resource."""

    names: set[str] = field(default_factory=set)
    """Names that it has asked for, if the kind isn't in _WILDCARD."""
    has: dict[str, str] = field(default_factory=dict)
    """Version of each resource that the client has ACKed, by name."""
    acked_at: dict[str, datetime] = field(default_factory=dict)
    nacks: dict[str, Nack] = field(default_factory=dict)
    """The NACK of each resource whose current version it has rejected, by name."""
    unanswered: set[str] = field(default_factory=set)
    """Names that need a response even if there is no such resource."""
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
    """The state of one Envoy's stream."""

    def __init__(self, identity: str, cluster: str = "", user_agent: str = "") -> None:
        """Start without resources; the arguments are what the Envoy says of itself."""
        self.identity, self.cluster, self.user_agent = identity, cluster, user_agent
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
        sent = known.pending.resource if known.pending else None
        if sent and sent.name in asked | left:
            # The client may have dropped it, so that an ACK would say nothing of it.
            known.pending = None
        for name in asked | left:
            known.has.pop(name, None)
            known.nacks.pop(name, None)
        # Endpoints are sent again on every stream: their cluster may have been replaced meanwhile.
        if first and kind != ENDPOINTS:
            known.has.update(has)
        if kind not in _WILDCARD:
            known.names = (known.names | asked) - left
            known.unanswered = (known.unanswered | asked - known.has.keys()) - left

    def ack(self, kind: str, nonce: str) -> None:
        """Record an ACK of the response with `nonce`; stale nonces are ignored."""
        known = self.subscriptions.get(kind)
        push = known.settle(nonce) if known else None
        if not known or not push:
            return
        ACKS.labels(KINDS[kind]).inc()
        if push.resource:
            name = push.resource.name
            known.has[name], known.acked_at[name] = push.resource.version, datetime.now(UTC)
            known.nacks.pop(name, None)

    def nack(self, kind: str, nonce: str, message: str) -> None:
        """Record a NACK of the response with `nonce`, with the client's error message."""
        known = self.subscriptions.get(kind)
        push = known.settle(nonce) if known else None
        if not known or not push:
            return
        NACKS.labels(KINDS[kind]).inc()
        message = message[:MAX_MESSAGE_LENGTH]
        log.warning("response NACKed", node=self.identity, kind=kind, message=message)
        if push.resource:
            version = push.resource.version
            known.nacks[push.resource.name] = Nack(version, message, datetime.now(UTC))

    # Responses to the client.

    def next(self, snapshot: Snapshot) -> Push | None:
        """Return the next push towards this snapshot; None if there is none for now.

        New and changed resources come first, in WARMING_ORDER; removals follow in REMOVAL_ORDER
        once the client has ACKed all of them. Each is sent alone: so a NACK tells which it is of.
        """
        for kind in WARMING_ORDER:
            if not self._pending(kind, *_WAITS_FOR[kind]):
                push = self._difference(kind, snapshot, removing=False)
                if push is not None:
                    return push
        if self._pending(*WARMING_ORDER):
            return None
        # A client that has NACKed listeners or routes may still use removed clusters.
        users = (LISTENER, ROUTES)
        keeps_clusters = any(
            kind in self.subscriptions and self.subscriptions[kind].nacks for kind in users
        )
        for kind in users if keeps_clusters else REMOVAL_ORDER:
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
        """Return a push of what the client lacks, or has too much if `removing`."""
        known = self.subscriptions.get(kind)
        if known is None:
            return None
        current = {
            name: each
            for name, each in snapshot[kind].items()
            if kind in _WILDCARD or name in known.names
        }
        for name, nack in [*known.nacks.items()]:  # what has changed since is sent again
            if name not in current or current[name].version != nack.version:
                del known.nacks[name]
        removed = frozenset(known.has) - current.keys() if removing else frozenset()
        removed |= known.unanswered - current.keys()
        resource = next(
            (
                each
                for name, each in current.items()
                if known.has.get(name) != each.version and name not in known.nacks
            ),
            None,
        )
        if not (resource or removed):
            return None
        if kind == CLUSTER and resource and ENDPOINTS in self.subscriptions:
            # A replaced cluster becomes warm only with its endpoints.
            self.subscriptions[ENDPOINTS].has.pop(resource.name, None)
        self._nonces += 1
        after = {name: version for name, version in known.has.items() if name not in removed}
        if resource:
            after[resource.name] = resource.version
            known.unanswered.discard(resource.name)
        known.unanswered -= removed
        known.pending = Push(kind, str(self._nonces), version_of(after), resource, removed)
        PUSHES.labels(KINDS[kind]).inc()
        return known.pending
