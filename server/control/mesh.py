"""The mesh: services, pools of pods, and the pods' endpoints."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

Service: TypeAlias = Literal["candidate", "ranking", "gateway", "slate"]
PoolName: TypeAlias = Literal["production", "canary"]

INNER: tuple[Service, ...] = ("candidate", "ranking")
"""Services that gateways call; their pods are in up to two pools."""
GRPC_SERVICES: Mapping[Service, str] = {
    "candidate": "vireo.v1.CandidateService",
    "ranking": "vireo.v1.RankingService",
    "gateway": "vireo.v1.RecommendationService",
    "slate": "vireo.v1.RecommendationService",
}
"""The gRPC service under which each kind of pod reports its health."""
BUCKETS = 10_000
"""Number of buckets that viewers are hashed into; the header `x-vireo-bucket` has the bucket."""


class Endpoint(NamedTuple):
    """IP address and port of a pod."""

    host: str
    port: int

    @staticmethod
    def checked(host: str, port: int) -> Endpoint:
        """Return the endpoint, with its address in canonical form.

        Raises:
            ValueError: Envoy would reject it, and all other endpoints of the resource with it.
        """
        # Host names are rejected: Envoy doesn't resolve those of endpoints.
        address = ipaddress.ip_address(host)
        if getattr(address, "scope_id", None):
            raise ValueError(f"{host!r} has a scope, which is valid on one machine only")
        if not 0 < port < 65536:
            raise ValueError(f"{port} is not a port")
        return Endpoint(str(address), port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Pool(NamedTuple):
    """Pods of a service that follow the same channel."""

    service: Service
    name: PoolName = "production"

    @property
    def cluster(self) -> str:
        """Name of its pods' cluster."""
        return self.service if self.name == "production" else f"{self.service}-{self.name}"


POOLS: tuple[Pool, ...] = (
    Pool("gateway"),
    *(Pool(service, name) for service in INNER for name in ("production", "canary")),
)
"""Every possible pool."""
SLATE = Pool("slate")
"""Pods of all services, which discovery makes members of each service's production pool."""

Endpoints: TypeAlias = Mapping[Pool, frozenset[Endpoint]]
"""The pods of each pool; a missing pool has none."""


def with_slates(found: Endpoints) -> Endpoints:
    """Return the pods of each pool, given those that discovery has found, slate pods by SLATE."""
    slates = found.get(SLATE, frozenset())
    return {
        pool: found.get(pool, frozenset()) | (slates if pool.name == "production" else frozenset())
        for pool in POOLS
    }


@dataclass(frozen=True)
class Mesh:
    """All inputs of the resources besides settings."""

    members: Endpoints = field(default_factory=dict)
    canary_share: float = 0.0
    """Share of the viewers that the canary pools serve, 0 to 1."""
    jwks: str = ""
    """The public keys that callers' tokens are verified with, as JSON."""

    def of(self, pool: Pool) -> frozenset[Endpoint]:
        """Return the members of a pool; none if it is unknown."""
        return self.members.get(pool, frozenset())

    @property
    def has_canary(self) -> bool:
        """Whether both services have a canary pod.

        Otherwise candidates and ranking would come from different releases.
        """
        return all(self.of(Pool(service, "canary")) for service in INNER)

    @property
    def canary_buckets(self) -> int:
        """Number of buckets, from 0, that the canary pools serve."""
        return round(self.canary_share * BUCKETS) if self.has_canary else 0
