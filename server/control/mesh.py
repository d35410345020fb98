"""What the mesh is made of: services, pools of pods, and where each pod answers."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

Service: TypeAlias = Literal["candidate", "ranking", "gateway"]
PoolName: TypeAlias = Literal["production", "canary", "shadow"]

INNER: tuple[Service, ...] = ("candidate", "ranking")
"""The services that gateways call; their pods come in pools."""
GRPC_SERVICES: Mapping[Service, str] = {
    "candidate": "vireo.v1.CandidateService",
    "ranking": "vireo.v1.RankingService",
    "gateway": "vireo.v1.RecommendationService",
}
"""The gRPC service by which each kind of pod reports its health."""
BUCKETS = 10_000
"""Viewers are spread over this many buckets, which `x-vireo-bucket` tells."""


class Endpoint(NamedTuple):
    """Where a pod answers."""

    host: str
    port: int

    @staticmethod
    def checked(host: str, port: int) -> Endpoint:
        """Return the endpoint, its address in the short form.

        Raises:
            ValueError: Envoy couldn't take it, and would refuse all endpoints beside it as well.
        """
        # Names aren't looked up by whom endpoints are told to.
        address = ipaddress.ip_address(host)
        if getattr(address, "scope_id", None):
            raise ValueError(f"{host!r} has a scope, which means something on one machine only")
        if not 0 < port < 65536:
            raise ValueError(f"{port} is no port")
        return Endpoint(str(address), port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Pool(NamedTuple):
    """The pods of a service that follow one channel."""

    service: Service
    name: PoolName = "production"

    @property
    def cluster(self) -> str:
        """The cluster of its pods."""
        return self.service if self.name == "production" else f"{self.service}-{self.name}"


POOLS: tuple[Pool, ...] = (
    Pool("gateway"),
    *(Pool(service, name) for service in INNER for name in ("production", "canary", "shadow")),
)
"""Every pool that there can be."""

Endpoints: TypeAlias = Mapping[Pool, frozenset[Endpoint]]
"""The pods of each pool; a pool that is missing has none."""


@dataclass(frozen=True)
class Members:
    """The pods of a pool as Envoy is told of them."""

    active: frozenset[Endpoint] = frozenset()
    draining: frozenset[Endpoint] = frozenset()
    """Still there, but not to get new calls."""


@dataclass(frozen=True)
class Mesh:
    """All that the resources are derived from, besides settings."""

    members: Mapping[Pool, Members] = field(default_factory=dict)
    canary_share: float = 0.0
    """Share of the viewers that the canary pools answer, 0 to 1."""
    jwks: str = ""
    """The public keys that callers' tokens are checked by, as JSON."""

    def of(self, pool: Pool) -> Members:
        """The members of a pool; none where it is unknown."""
        return self.members.get(pool, Members())

    @property
    def canary_buckets(self) -> int:
        """How many of the buckets, from 0, the canary pools answer.

        None while a service has no canary pod: the canary's candidates would be ranked by
        production, or the other way round, and all those viewers get mixed releases.
        """
        if not all(self.of(Pool(service, "canary")).active for service in INNER):
            return 0
        return round(self.canary_share * BUCKETS)
