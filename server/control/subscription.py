"""A client's subscription to one kind of resource: what it wants, has and was sent."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from vireo.server.control.nodes import now
from vireo.server.control.snapshot import CLUSTER, LISTENER, Resource
from vireo.server.errors import VireoError

WILDCARD = "*"
MAX_NAMES = 1000
"""Maximum resources of one kind that a stream may name; a mesh has some ten of each."""
MAX_NAME_LENGTH = 256


class ClientLimitError(VireoError):
    """A client exceeds a limit of names or streams."""


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
    """What a client wants and has of one kind of resource."""

    kind: str
    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    has: dict[str, str] = field(default_factory=dict)
    """Version of each resource that the client has ACKed, by name."""
    acked_at: dict[str, datetime] = field(default_factory=dict)
    unanswered: set[str] = field(default_factory=set)
    """Names that need a response even if there is no such resource."""
    responded: bool = False
    """Whether anything was sent."""
    one_by_one: bool = False
    """Whether to send one resource at a time, to find which of several is rejected."""
    pending: Push | None = None
    """The response that was sent and neither ACKed nor NACKed yet."""
    forgotten: set[str] = field(default_factory=set)
    """Names that the client unsubscribed from, or requested again, since `pending` was sent: it may
    have dropped those resources, so that its ACK doesn't count for them."""

    @property
    def allows_wildcard(self) -> bool:
        """Whether the kind supports wildcard subscriptions; an error names its resources."""
        return self.kind in (CLUSTER, LISTENER)

    def wants(self, resource: Resource) -> bool:
        """Return whether a resource is subscribed to."""
        return self.wildcard or resource.name in self.names

    def forget(self, names: Collection[str]) -> None:
        """Assume that the client no longer has these, so that those still wanted are sent."""
        for name in names:
            self.has.pop(name, None)
        if self.pending is not None:
            self.forgotten.update(names)

    def forget_all(self) -> None:
        """Assume that the client has nothing, so that all that it wants is sent."""
        self.forget({*self.has, *(self.pending.resources if self.pending else ())})
        self.responded = False

    def settle(self, nonce: str) -> Push | None:
        """Return the pending response, now answered; None if the nonce isn't that response's."""
        if self.pending is None or self.pending.nonce != nonce:
            return None
        push, self.pending = self.pending, None
        return push

    def keep(self, resources: Mapping[str, Resource]) -> None:
        """Record that the client has accepted resources."""
        for name, resource in resources.items():
            if name not in self.forgotten and self.has.get(name) != resource.version:
                self.acked_at[name] = now()
                self.has[name] = resource.version

    def drop(self, push: Push) -> None:
        """Record that the client no longer has what a response removes."""
        for name in push.removed:
            self.has.pop(name, None)

    def check_size(self) -> None:
        """Raise ClientLimitError if there are too many names, or one is too long."""
        if max(map(len, (self.names, self.has, self.unanswered))) > MAX_NAMES:
            raise ClientLimitError(f"more than {MAX_NAMES} resources of one kind")
        if any(len(name) > MAX_NAME_LENGTH for name in (*self.names, *self.has)):
            raise ClientLimitError(f"a resource name of more than {MAX_NAME_LENGTH} characters")
