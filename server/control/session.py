"""State of one xDS stream: what its client wants and has, and the next push, in both variants."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import structlog
from prometheus_client import Counter

from server.control.nodes import Node, Refusal, now
from server.control.snapshot import (
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
from server.control.subscription import WILDCARD, Push, Subscription

log = structlog.get_logger()

PUSHES = Counter("vireo_xds_pushes", "Responses sent to clients, by kind of resource.", ["kind"])
ACKS = Counter("vireo_xds_acks", "Responses that clients took, by kind of resource.", ["kind"])
NACKS = Counter("vireo_xds_nacks", "Responses that clients refused, by kind.", ["kind"])
for _counter in (PUSHES, ACKS, NACKS):
    for _kind in KINDS.values():  # so that each is exported as 0 before the first event
        _counter.labels(_kind)

MAX_WORDS = 8192
"""Maximum characters kept of an error message: room for Envoy to name each refused resource."""

Variant = Literal["state of the world", "delta"]

_WHOLE = (CLUSTER, LISTENER)
"""Kinds that support wildcard subscriptions; state of the world responses have all of them."""
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

    def __init__(self, node: Node, variant: Variant) -> None:
        """Start the stream of a node, in one of the two protocol variants."""
        self.node = node
        self.variant = variant
        self.started_at = now()
        self.live = True
        """Whether the stream is open."""
        self.subscriptions: dict[str, Subscription] = {}
        self._whole_state = variant == "state of the world"
        self._nonces = 0
        self._early_clusters: set[str] = set()
        """Clusters that were sent before the first subscription to endpoints."""

    # Requests of the client.

    def names(self, kind: str, names: Collection[str]) -> None:
        """Subscribe to exactly these names (state of the world); none at first means all."""
        first = kind not in self.subscriptions
        known = self.subscriptions.setdefault(kind, Subscription())
        wanted = set(names) - {WILDCARD}
        known.named |= bool(names)
        had_all, known.wildcard = (
            known.wildcard,
            kind in _WHOLE and (WILDCARD in names or not known.named),
        )
        asked, left = wanted - known.names, known.names - wanted
        known.names = wanted
        known.forget(asked)
        if not known.wildcard:
            known.forget(left | (known.has.keys() - wanted))
        elif not had_all:
            self._greet(kind, known, again=not first)
        if asked:
            self.node.forgive(kind, asked)
        known.check_size()

    def change(
        self,
        kind: str,
        subscribe: Collection[str],
        unsubscribe: Collection[str],
        has: Mapping[str, str],
    ) -> None:
        """Change the subscription (delta); `has` are versions kept from an earlier stream."""
        first = kind not in self.subscriptions
        known = self.subscriptions.setdefault(kind, Subscription())
        if first:
            if kind == ENDPOINTS:
                # Endpoints of these belong to the clusters that were replaced: send them again.
                has = {name: has[name] for name in has.keys() - self._early_clusters}
            known.has.update(has)
        if kind in _WHOLE and (
            WILDCARD in subscribe or (first and not subscribe and not unsubscribe)
        ):
            known.wildcard = True
            self._greet(kind, known, again=not first)
        asked = set(subscribe) - {WILDCARD}
        known.names |= asked
        if not first:
            known.forget(asked)  # requested again, so it is sent again
        known.unanswered |= asked - known.has.keys()
        if asked:
            self.node.forgive(kind, asked)
        self._leave(known, unsubscribe)
        known.check_size()

    def _greet(self, kind: str, known: Subscription, *, again: bool) -> None:
        """Send all to a client that newly subscribes to all; `again` if it may have some."""
        if again:
            known.forget({*known.has, *(known.pending.resources if known.pending else ())})
            known.greeted = False
        self.node.forgive(kind)

    def _leave(self, known: Subscription, names: Collection[str]) -> None:
        """Unsubscribe from these names (delta)."""
        left = known.names.intersection(names)
        known.names -= left
        known.unanswered.difference_update(names)
        if WILDCARD in names:
            known.wildcard = False
            known.forget(known.has.keys() - known.names)
        known.forget(left)
        if known.wildcard:
            # They may still match the wildcard: the client needs a response either way.
            known.unanswered |= left

    def took(self, kind: str, nonce: str) -> None:
        """Record an ACK of the response with `nonce`; stale nonces are ignored."""
        known, push = self._settled(kind, nonce)
        if push is not None:
            ACKS.labels(KINDS[kind]).inc()
            self._keep(known, push.kind, push.resources)
            self._drop(known, push)

    def refused(self, kind: str, nonce: str, words: str) -> None:
        """Record a NACK of the response with `nonce`, with the client's error message."""
        known, push = self._settled(kind, nonce)
        if push is None:
            return
        NACKS.labels(KINDS[kind]).inc()
        words = words[:MAX_WORDS]
        log.warning("refused", node=self.node.identity, kind=kind, words=words)
        news = {
            name: each.version
            for name, each in push.resources.items()
            if known.has.get(name) != each.version
        }
        if not news:
            self._drop(known, push)  # it refuses a removal: sending it again won't help
            return
        refusal = Refusal(news, words, now())
        named = refusal.names_in_words() if kind in _WHOLE else frozenset()
        if named:
            # Envoy accepts the others of the same response, and names those that it refuses.
            rest = {name: each for name, each in push.resources.items() if name not in named}
            self._keep(known, kind, rest)
            refusal = Refusal({name: news[name] for name in named}, words, now())
        elif len(news) > 1 and not (self._whole_state and kind in _WHOLE):
            known.singly = True
            return
        # Removals in the same response aren't retried either, or the exchange would never end.
        self._drop(known, push)
        self.node.refuse(kind, refusal)

    def _settled(self, kind: str, nonce: str) -> tuple[Subscription, Push | None]:
        known = self.subscriptions.get(kind)
        if known is None or known.pending is None or known.pending.nonce != nonce:
            return known or Subscription(), None
        push, known.pending = known.pending, None
        return known, push

    def _keep(self, known: Subscription, kind: str, resources: Mapping[str, Resource]) -> None:
        for name, resource in resources.items():
            if name in known.forgotten:
                continue
            if known.has.get(name) != resource.version:
                known.took_at[name] = now()
            known.has[name] = resource.version
        self.node.take(kind, resources)

    def _drop(self, known: Subscription, push: Push) -> None:
        gone = set(push.removed)
        if self._whole_state and push.kind in _WHOLE:
            gone |= known.has.keys() - push.resources.keys()
        for name in gone:
            known.has.pop(name, None)

    # Responses to the client.

    def next(self, snapshot: Snapshot) -> Push | None:
        """Return the next push towards this snapshot; None if there is none for now.

        New and changed resources come first, in WARMING_ORDER; removals follow in REMOVAL_ORDER
        once the client has ACKed all of them.
        """
        self.node.review(snapshot)
        for kind in WARMING_ORDER:
            known = self.subscriptions.get(kind)
            if known is None or known.pending or any(map(self._pending, _WAITS_FOR[kind])):
                continue
            push = self._difference(kind, known, snapshot, removing=False)
            if push is not None:
                return push
        if any(map(self._pending, WARMING_ORDER)):
            return None
        for kind in REMOVAL_ORDER:
            if kind in (CLUSTER, ENDPOINTS) and self._keeps_old_routes():
                continue
            known = self.subscriptions.get(kind)
            if known is not None:
                push = self._difference(kind, known, snapshot, removing=True)
                if push is not None:
                    return push
        return None

    def _pending(self, kind: str) -> bool:
        known = self.subscriptions.get(kind)
        return known is not None and known.pending is not None

    def _keeps_old_routes(self) -> bool:
        """Return whether it refuses listeners or routes, so may still use removed clusters."""
        return any(self.node.refusals[kind] for kind in (LISTENER, ROUTES))

    def _difference(
        self, kind: str, known: Subscription, snapshot: Snapshot, *, removing: bool
    ) -> Push | None:
        current = {
            name: each for name, each in snapshot.resources[kind].items() if known.wants(each)
        }
        refused = self.node.refused(kind).keys() & current.keys()
        good = self.node.good[kind]
        target = {
            name: good[name] if name in refused else each
            for name, each in current.items()
            if name not in refused or name in good
        }
        news = {name: each for name, each in target.items() if known.has.get(name) != each.version}
        removed = frozenset(known.has) - current.keys() if removing else frozenset()
        if self._whole_state:
            removed = removed if kind in _WHOLE else frozenset()
        else:
            removed |= known.unanswered - current.keys()
        greets = not known.greeted and known.wildcard and not known.has
        if not (news or removed or greets):
            known.singly = False
            return None
        whole = self._whole_state and kind in _WHOLE
        if known.singly and not whole:
            news = dict([next(iter(news.items()))]) if news else {}
        resources: Mapping[str, Resource] = news
        if whole:
            # Includes refused resources without a good version: leaving them out would remove
            # what the client may have from before.
            resources = {**self._leftovers(known, good, removing), **current, **target}
        if kind == CLUSTER:
            # A replaced cluster becomes warm only when its endpoints are sent again.
            endpoints = self.subscriptions.get(ENDPOINTS)
            if endpoints is None:
                self._early_clusters.update(news)
            else:
                for name in news:
                    endpoints.has.pop(name, None)
        return self._push(kind, known, resources, removed)

    def _leftovers(
        self, known: Subscription, good: Mapping[str, Resource], removing: bool
    ) -> dict[str, Resource]:
        """Return the resources that the client must keep for now."""
        return {} if removing else {name: good[name] for name in known.has if name in good}

    def _push(
        self,
        kind: str,
        known: Subscription,
        resources: Mapping[str, Resource],
        removed: frozenset[str],
    ) -> Push:
        self._nonces += 1
        after = {name: version for name, version in known.has.items() if name not in removed}
        after |= {name: each.version for name, each in resources.items()}
        push = Push(kind, str(self._nonces), version_of(after), resources, removed)
        known.pending, known.greeted = push, True
        known.forgotten.clear()
        PUSHES.labels(KINDS[kind]).inc()
        known.unanswered -= {*resources, *removed}
        return push
