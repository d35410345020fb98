"""What a client wants and has of one kind of resource, and what is under way to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from server.control.snapshot import Resource
from server.errors import VireoError

WILDCARD = "*"
MAX_NAMES = 1000
"""Resources of one kind that a stream may name; a mesh has some ten of each."""
MAX_NAME_LENGTH = 256


class TooManyNamesError(VireoError):
    """A client asks for more than a stream may."""


@dataclass(frozen=True)
class Push:
    """A response that is to be sent."""

    kind: str
    nonce: str
    version: str
    """One for all that the client has of this kind once it has taken the response."""
    resources: Mapping[str, Resource]
    removed: frozenset[str]


@dataclass
class Subscription:
    """What a client wants and has of one kind."""

    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    has: dict[str, str] = field(default_factory=dict)
    """The version of each resource that the client has taken."""
    took_at: dict[str, datetime] = field(default_factory=dict)
    unanswered: set[str] = field(default_factory=set)
    """Names that were asked for and not answered yet, be it that there is no such resource."""
    greeted: bool = False
    """Whether anything was sent."""
    singly: bool = False
    """Whether to send one resource at a time, to find which of several is refused."""
    pending: Push | None = None
    """What was sent and neither taken nor refused yet."""
    forgotten: set[str] = field(default_factory=set)
    """Names that the client has left, or asked for anew, since `pending` was sent. It may have
    dropped what that holds of them, so that its acknowledgement says nothing of them."""
    named: bool = False
    """Whether any name was ever asked for: from then on an empty list means nothing, not all."""

    def asks(self, name: str) -> bool:
        """Whether a name is subscribed to, by itself or with all."""
        return self.wildcard or name in self.names

    def wants(self, resource: Resource) -> bool:
        """Whether a resource is subscribed to."""
        return resource.name in self.names or (self.wildcard and not resource.by_name_only)

    def forget(self, names: Collection[str]) -> None:
        """Assume that the client no longer has these: what of them is still wanted is sent."""
        for name in names:
            self.has.pop(name, None)
        if self.pending is not None:
            self.forgotten.update(names)

    def check_size(self) -> None:
        """Raise TooManyNamesError if this is more than any client of ours can want."""
        if max(map(len, (self.names, self.has, self.unanswered))) > MAX_NAMES:
            raise TooManyNamesError(f"more than {MAX_NAMES} resources of one kind")
        if any(len(name) > MAX_NAME_LENGTH for name in (*self.names, *self.has)):
            raise TooManyNamesError(f"a resource name of more than {MAX_NAME_LENGTH} characters")
