"""What each Envoy last ACKed and what it NACKed, across its streams."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from server.control.snapshot import WARMING_ORDER, Resource, Snapshot


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

    def matches(self, resources: Mapping[str, Resource]) -> set[str]:
        """Return the names of which `resources` has the refused version."""
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
    """The last ACKed version of each resource, which is sent instead of a refused one."""
    refusals: dict[str, list[Refusal]] = field(
        default_factory=lambda: {kind: [] for kind in WARMING_ORDER}
    )

    def take(self, kind: str, resources: Mapping[str, Resource]) -> None:
        """Record that resources were accepted, which clears refusals of the same versions."""
        self.good[kind].update(resources)
        self.refusals[kind] = [each for each in self.refusals[kind] if not each.matches(resources)]

    def refuse(self, kind: str, refusal: Refusal) -> None:
        """Record a refusal, in place of earlier refusals of the same resources."""
        self.refusals[kind] = [
            each
            for each in self.refusals[kind]
            if not each.versions.keys() <= refusal.versions.keys()
        ] + [refusal]
        for name in refusal.matches(self.good[kind]):
            del self.good[kind][
                name
            ]  # no longer accepted, for example by a client of another build

    def forgive(self, kind: str, names: Collection[str] | None = None) -> None:
        """Forget the refusals of resources that are requested anew and have no good version.

        The protocol requires a response, and the client may accept it by now, for example after a
        restart with another build. Resources refused together with it are retried as well.

        Args:
            kind: the kind of resource.
            names: the requested resources; all if None.
        """
        self.refusals[kind] = [
            each
            for each in self.refusals[kind]
            if not any(
                name not in self.good[kind] and (names is None or name in names)
                for name in each.versions
            )
        ]

    def review(self, snapshot: Snapshot) -> None:
        """Forget the refusals of resources that have changed since, so that they are retried."""
        for kind, refusals in self.refusals.items():
            current = snapshot.resources[kind]
            self.refusals[kind] = [
                each for each in refusals if len(each.matches(current)) == len(each.versions)
            ]

    def refused(self, kind: str) -> dict[str, Refusal]:
        """Return the refusal of each resource of a kind that it refuses, by name."""
        return {name: each for each in self.refusals[kind] for name in each.versions}


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)
