"""One xDS stream: what its client wants, has and is to be sent next, in either protocol."""

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
    for _kind in KINDS.values():  # so that each is shown as 0 before it happens
        _counter.labels(_kind)

MAX_WORDS = 8192
"""Characters of a refusal that are kept: enough for Envoy to name each resource that it means."""

Variant = Literal["state of the world", "delta"]

_WHOLE = (CLUSTER, LISTENER)
"""Kinds that may be asked for without names. In state of the world their responses list all."""
# An Envoy acknowledges clusters only when they are warm, for which it needs their endpoints:
# so endpoints don't wait for that, but what refers to clusters does.
_WAITS_FOR: Mapping[str, tuple[str, ...]] = {
    CLUSTER: (),
    ENDPOINTS: (),
    LISTENER: (CLUSTER, ENDPOINTS),
    ROUTES: (CLUSTER, ENDPOINTS),
}


class Session:
    """The state of one stream."""

    def __init__(self, node: Node, variant: Variant) -> None:
        """Takes whose stream it is, and which protocol it speaks."""
        self.node = node
        self.variant = variant
        self.started_at = now()
        self.live = True
        """Whether the stream still lasts."""
        self.subscriptions: dict[str, Subscription] = {}
        self._whole_state = variant == "state of the world"
        self._nonces = 0
        self._early_clusters: set[str] = set()
        """Clusters that were sent before any endpoints were asked for."""

    # What the client says.

    def names(self, kind: str, names: Collection[str]) -> None:
        """State of the world: from now on the client wants these; at first, none means all."""
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
        """Delta: the client wants other names; `has` is what it keeps of an earlier stream."""
        first = kind not in self.subscriptions
        known = self.subscriptions.setdefault(kind, Subscription())
        if first:
            if kind == ENDPOINTS:
                # What the client keeps of these it keeps for the clusters that they replace.
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
            known.forget(asked)  # asked for again: it is sent again
        known.unanswered |= asked - known.has.keys()
        if asked:
            self.node.forgive(kind, asked)
        self._leave(known, unsubscribe)
        known.check_size()

    def _greet(self, kind: str, known: Subscription, *, again: bool) -> None:
        """Have all sent to a client that now asks for all; `again` if it could have some."""
        if again:
            known.forget({*known.has, *(known.pending.resources if known.pending else ())})
            known.greeted = False
        self.node.forgive(kind)

    def _leave(self, known: Subscription, names: Collection[str]) -> None:
        """Delta: the client no longer wants these."""
        left = known.names.intersection(names)
        known.names -= left
        known.unanswered.difference_update(names)
        if WILDCARD in names:
            known.wildcard = False
            known.forget(known.has.keys() - known.names)
        known.forget(left)
        if known.wildcard:
            # It can't tell whether these are among all: it is to be told, one way or the other.
            known.unanswered |= left

    def took(self, kind: str, nonce: str) -> None:
        """The client has accepted what was sent with `nonce`; old nonces mean nothing."""
        known, push = self._settled(kind, nonce)
        if push is not None:
            ACKS.labels(KINDS[kind]).inc()
            self._keep(known, push.kind, push.resources)
            self._drop(known, push)

    def refused(self, kind: str, nonce: str, words: str) -> None:
        """The client has refused what was sent with `nonce`, and says why."""
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
            self._drop(known, push)  # it refuses to lose something: to insist won't help
            return
        refusal = Refusal(news, words, now())
        named = refusal.names_in_words() if kind in _WHOLE else frozenset()
        if named:
            # Envoy takes the others of the same response, and names those that it didn't.
            rest = {name: each for name, each in push.resources.items() if name not in named}
            self._keep(known, kind, rest)
            refusal = Refusal({name: news[name] for name in named}, words, now())
        elif len(news) > 1 and not (self._whole_state and kind in _WHOLE):
            known.singly = True
            return
        # What was removed beside it isn't insisted on either, or the two would go on forever.
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

    # What the client is told.

    def next(self, snapshot: Snapshot) -> Push | None:
        """What to send next, to bring the client to this snapshot; None while there is nothing.

        First all that is new or changed, what is referred to before what refers to it; and
        only when the client has taken all of it, what is no more, the other way round.
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
        """Whether it has refused what would lead away from clusters that are no more."""
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
            # What is refused and never was good, as it is: to leave it out would be to
            # remove what the client may have from before.
            resources = {**self._leftovers(known, good, removing), **current, **target}
        if kind == CLUSTER:
            # A cluster that is made anew is warm only once it is told its endpoints again.
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
        """What the client has and isn't to lose yet."""
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
