"""What each Envoy last ACKed and what it NACKed, across its streams."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from vireo.server.control.snapshot import WARMING_ORDER, Resource, Snapshot


@dataclass(frozen=True)
class Nack:
    """A NACK."""

    versions: Mapping[str, str]
    """Versions of the NACKed resources, by name; only some of them may be at fault."""
    message: str
    """The client's error message."""
    at: datetime

    def names_in_message(self) -> frozenset[str]:
        """Return the resources that the error message names."""
        return frozenset(
            name
            for name in self.versions
            if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", self.message)
        )

    def matches(self, resources: Mapping[str, Resource]) -> set[str]:
        """Return the names of which `resources` has the NACKed version."""
        return {
            name
            for name, version in self.versions.items()
            if name in resources and resources[name].version == version
        }


@dataclass
class Node:
    """An Envoy, identified by the id in its bootstrap. It outlives its streams."""

    identity: str
    cluster: str = ""
    user_agent: str = ""
    good: dict[str, dict[str, Resource]] = field(
        default_factory=lambda: {kind: {} for kind in WARMING_ORDER}
    )
    """The last ACKed version of each resource, which is sent instead of a NACKed one."""
    nacks: dict[str, list[Nack]] = field(
        default_factory=lambda: {kind: [] for kind in WARMING_ORDER}
    )

    def ack(self, kind: str, resources: Mapping[str, Resource]) -> None:
        """Record that resources were accepted, which clears NACKs of the same versions."""
        self.good[kind].update(resources)
        self._forget(kind, lambda nack: bool(nack.matches(resources)))

    def nack(self, kind: str, nack: Nack) -> None:
        """Record a NACK, in place of earlier ones of the same resources."""
        self._forget(kind, lambda each: each.versions.keys() <= nack.versions.keys())
        self.nacks[kind].append(nack)
        # No longer accepted, for example by a client of another build.
        for name in nack.matches(self.good[kind]):
            del self.good[kind][name]

    def retry(self, kind: str, names: Collection[str] | None = None) -> None:
        """Forget the NACKs of resources that are requested anew and have no good version.

        The protocol requires a response, and the client may accept it by now, for example after a
        restart with another build. Resources NACKed together with it are retried as well.

        Args:
            kind: the kind of resource.
            names: the requested resources; all if None.
        """

        def is_new(name: str) -> bool:
            return name not in self.good[kind] and (names is None or name in names)

        self._forget(kind, lambda nack: any(map(is_new, nack.versions)))

    def forget_changed(self, snapshot: Snapshot) -> None:
        """Forget the NACKs of resources that have changed since, so that they are retried."""
        for kind, nacks in self.nacks.items():
            current = snapshot.resources[kind]
            self.nacks[kind] = [
                each for each in nacks if each.versions.keys() == each.matches(current)
            ]

    def _forget(self, kind: str, gone: Callable[[Nack], bool]) -> None:
        self.nacks[kind] = [each for each in self.nacks[kind] if not gone(each)]

    def nacked(self, kind: str) -> dict[str, Nack]:
        """Return the NACK of each resource of a kind that it has NACKed, by name."""
        return {name: each for each in self.nacks[kind] for name in each.versions}


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)
