"""A Kubernetes source that is followed in the background, and what recordings come to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from vireo.server.control.kubernetes import KubernetesDiscovery
from vireo.server.control.mesh import Endpoint, Endpoints, Pool
from vireo.server.control.settings import KubernetesSettings

CANDIDATE, GATEWAY, RANKING = Pool("candidate"), Pool("gateway"), Pool("ranking")
CANARY = Pool("candidate", "canary")


def pods(port: int, *hosts: str) -> frozenset[Endpoint]:
    """Pods of the recorded cluster."""
    return frozenset(Endpoint(f"10.244.{host}", port) for host in hosts)


LISTED: Endpoints = {
    **dict.fromkeys(KubernetesSettings().pools.values(), frozenset[Endpoint]()),
    CANDIDATE: pods(8120, "1.21", "3.23"),
    GATEWAY: pods(8140, "1.11", "2.12"),
    RANKING: pods(8130, "1.31", "2.32"),
}
"""What list.json comes to."""
LISTED_LATER: Endpoints = {
    **LISTED,
    CANDIDATE: pods(8120, "2.22"),
    GATEWAY: pods(8140, "1.11", "3.13"),
    RANKING: pods(8130, "1.31"),
}
"""What list_later.json comes to."""


Logs: TypeAlias = list[MutableMapping[str, Any]]


def reasons(logs: Logs) -> list[str]:
    """The reason of each failure that was logged."""
    return [str(entry["reason"]) for entry in logs if entry["log_level"] == "error"]


@dataclass
class Following:
    """A source that is followed in the background."""

    discovery: KubernetesDiscovery
    published: list[Endpoints] = field(default_factory=list)

    @property
    def failures(self) -> int:
        return self.discovery.attempts.failures


@asynccontextmanager
async def following(settings: KubernetesSettings) -> AsyncIterator[Following]:
    follower = Following(KubernetesDiscovery(settings))
    running = asyncio.create_task(follower.discovery.follow(follower.published.append))
    try:
        yield follower
        assert not running.done(), "it goes on for as long as it is asked"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
