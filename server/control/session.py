"""State of one xDS stream: what its client wants and has, and the next push."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import structlog
from prometheus_client import Counter

from vireo.server.control.nodes import Nack, Node, now
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
from vireo.server.control.subscription import WILDCARD, Push, Subscription

log = structlog.get_logger()

PUSHES = Counter("vireo_xds_pushes", "Responses sent to clients, by kind.", ["kind"])
ACKS = Counter("vireo_xds_acks", "Responses that clients ACKed, by kind.", ["kind"])
NACKS = Counter("vireo_xds_nacks", "Responses that clients NACKed, by kind.", ["kind"])
for _counter in (PUSHES, ACKS, NACKS):
    for _kind in KINDS.values():  # so that each is exported as 0 before the first event
        _counter.labels(_kind)

MAX_MESSAGE_LENGTH = 8192
"""Maximum characters kept of an error message: room for Envoy to name each NACKed resource."""

# An Envoy ACKs clusters only once they are warm, for which it needs their endpoints: so endpoints
# don't wait for that, but resources that refer to clusters do.
_WAITS_FOR: Mapping[str, tuple[str, ...]] = {
    CLUSTER: (),
    ENDPOINTS: (),
    LISTENER: (CLUSTER, ENDPOINTS),
    ROUTES: (CLUSTER, ENDPOINTS),
}


class Session:
    """The state of one stream."""

    def __init__(self, node: Node) -> None:
        """Start the stream of a node."""
        self.node = node
        self.subscriptions: dict[str, Subscription] = {}
        self._nonces = 0
        self._early_clusters: set[str] = set()
        """Clusters that were sent before the first subscription to endpoints."""

    # Requests of the client.

    def change(
        self,
        kind: str,
        subscribe: Collection[str],
        unsubscribe: Collection[str],
        has: Mapping[str, str],
    ) -> None:
        """Change the subscription; `has` are versions kept from an earlier stream."""
        known, first = self._subscription(kind)
        asked = set(subscribe) - {WILDCARD}
        known.names |= asked
        self._ask(known, asked)
        if first:
            # Endpoints of these belong to the clusters that were replaced: send them again.
            stale = self._early_clusters if kind == ENDPOINTS else set()
            known.has.update({name: has[name] for name in has.keys() - stale})
        if known.allows_wildcard and (
            WILDCARD in subscribe or (first and not subscribe and not unsubscribe)
        ):
            known.wildcard = True
            self._ask_all(known, first=first)
        known.unanswered |= asked - known.has.keys()

        left = known.names.intersection(unsubscribe)
        known.names -= left
        known.unanswered.difference_update(unsubscribe)
        if WILDCARD in unsubscribe:
            known.wildcard = False
            known.forget(known.has.keys() - known.names)
        known.forget(left)
        if known.wildcard:
            # They may still match the wildcard: the client needs a response either way.
            known.unanswered |= left
        known.check_size()

    def _subscription(self, kind: str) -> tuple[Subscription, bool]:
        """Return the subscription to a kind, and whether it is new."""
        first = kind not in self.subscriptions
        return self.subscriptions.setdefault(kind, Subscription(kind)), first

    def _ask(self, known: Subscription, names: set[str]) -> None:
        """Send these again, even if the client has had or NACKed them."""
        known.forget(names)
        if names:
            self.node.retry(known.kind, names)

    def _ask_all(self, known: Subscription, *, first: bool) -> None:
        """Send all to a client that newly subscribes to all; unless `first` it may have some."""
        if not first:
            known.forget_all()
        self.node.retry(known.kind)

    def ack(self, kind: str, nonce: str) -> None:
        """Record an ACK of the response with `nonce`; stale nonces are ignored."""
        known = self.subscriptions.get(kind)
        push = known.settle(nonce) if known else None
        if known and push:
            ACKS.labels(KINDS[kind]).inc()
            self._accept(known, push.resources)
            known.drop(push)

    def nack(self, kind: str, nonce: str, message: str) -> None:
        """Record a NACK of the response with `nonce`, with the client's error message."""
        known = self.subscriptions.get(kind)
        push = known.settle(nonce) if known else None
        if not known or not push:
            return
        NACKS.labels(KINDS[kind]).inc()
        message = message[:MAX_MESSAGE_LENGTH]
        log.warning("response NACKed", node=self.node.identity, kind=kind, message=message)
        news = {
            name: each.version
            for name, each in push.resources.items()
            if known.has.get(name) != each.version
        }
        nack = Nack(news, message, now())
        named = nack.names_in_message() if known.allows_wildcard else frozenset()
        if named:
            # Envoy accepts the others of the same response, and names those that it rejects.
            others = {name: each for name, each in push.resources.items() if name not in named}
            self._accept(known, others)
            nack = Nack({name: news[name] for name in named}, message, now())
        elif len(news) > 1:
            known.one_by_one = True
            return
        # Removals aren't retried, whether NACKed by themselves or beside others, or the exchange
        # would never end.
        known.drop(push)
        if news:
            self.node.nack(kind, nack)

    def _accept(self, known: Subscription, resources: Mapping[str, Resource]) -> None:
        known.keep(resources)
        self.node.ack(known.kind, resources)

    # Responses to the client.

    def next(self, snapshot: Snapshot) -> Push | None:
        """Return the next push towards this snapshot; None if there is none for now.

        New and changed resources come first, in WARMING_ORDER; removals follow in REMOVAL_ORDER
        once the client has ACKed all of them.
        """
        self.node.forget_changed(snapshot)
        for kind in WARMING_ORDER:
            if not self._pending(kind, *_WAITS_FOR[kind]):
                push = self._difference(kind, snapshot, removing=False)
                if push is not None:
                    return push
        if self._pending(*WARMING_ORDER):
            return None
        # A client that has NACKed listeners or routes may still use removed clusters.
        keeps_clusters = any(self.node.nacks[kind] for kind in (LISTENER, ROUTES))
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
            name: each for name, each in snapshot.resources[kind].items() if known.wants(each)
        }
        nacked, good = self.node.nacked(kind), self.node.good[kind]
        target = {
            name: good[name] if name in nacked else each
            for name, each in current.items()
            if name not in nacked or name in good
        }
        news = {name: each for name, each in target.items() if known.has.get(name) != each.version}
        removed = frozenset(known.has) - current.keys() if removing else frozenset()
        removed |= known.unanswered - current.keys()
        first_response = known.wildcard and not known.responded and not known.has
        if not (news or removed or first_response):
            known.one_by_one = False
            return None
        if known.one_by_one:
            news = dict([*news.items()][:1])
        if kind == CLUSTER:
            # A replaced cluster becomes warm only when its endpoints are sent again.
            endpoints = self.subscriptions.get(ENDPOINTS)
            if endpoints is None:
                self._early_clusters.update(news)
            else:
                for name in news:
                    endpoints.has.pop(name, None)
        return self._push(known, news, removed)

    def _push(
        self, known: Subscription, resources: Mapping[str, Resource], removed: frozenset[str]
    ) -> Push:
        self._nonces += 1
        after = {name: version for name, version in known.has.items() if name not in removed}
        after |= {name: each.version for name, each in resources.items()}
        push = Push(known.kind, str(self._nonces), version_of(after), resources, removed)
        known.pending, known.responded = push, True
        known.forgotten.clear()
        known.unanswered -= {*resources, *removed}
        PUSHES.labels(KINDS[known.kind]).inc()
        return push
