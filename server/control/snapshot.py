"""Snapshots: all resources at one moment, immutable, each with a version made of its content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import xxhash
from google.protobuf import any_pb2
from google.protobuf.message import Message

_PREFIX = "type.googleapis.com/"
LISTENER = f"{_PREFIX}envoy.config.listener.v3.Listener"
ROUTES = f"{_PREFIX}envoy.config.route.v3.RouteConfiguration"
CLUSTER = f"{_PREFIX}envoy.config.cluster.v3.Cluster"
ENDPOINTS = f"{_PREFIX}envoy.config.endpoint.v3.ClusterLoadAssignment"

KINDS: Mapping[str, str] = {
    CLUSTER: "clusters",
    ENDPOINTS: "endpoints",
    LISTENER: "listeners",
    ROUTES: "routes",
}
"""What the kinds are called where people read of them, by type URL."""
WARMING_ORDER = (CLUSTER, ENDPOINTS, LISTENER, ROUTES)
"""How what is new is told: clusters and their endpoints before the routes that lead there."""
REMOVAL_ORDER = (LISTENER, ROUTES, CLUSTER, ENDPOINTS)
"""How what is no more is told: what refers to a thing goes before it."""


@dataclass(frozen=True)
class Resource:
    """One listener, route configuration, cluster or load assignment."""

    name: str
    version: str
    """A digest of the content: equal resources have equal versions, after a restart too."""
    body: any_pb2.Any
    by_name_only: bool = False
    """Whether it is left out where all of its kind are asked for."""


@dataclass(frozen=True)
class Snapshot:
    """The resources of each kind, by name."""

    resources: Mapping[str, Mapping[str, Resource]]
    """Type URL, then name."""

    @staticmethod
    def of(messages: Iterable[Message]) -> Snapshot:
        """The snapshot of these messages.

        Raises:
            ValueError: two of a kind have the same name, or one is of no kind that is served.
        """
        resources: dict[str, dict[str, Resource]] = {kind: {} for kind in WARMING_ORDER}
        for message in messages:
            body = any_pb2.Any()
            body.Pack(message, deterministic=True)
            name: str = getattr(message, "cluster_name", "") or getattr(message, "name", "")
            if body.type_url not in resources or name in resources[body.type_url]:
                raise ValueError(f"{body.type_url} {name!r} is there twice or of no known kind")
            version = xxhash.xxh3_64_hexdigest(body.value)
            # Listeners for gRPC clients, which name them; an Envoy couldn't take one.
            by_name_only = body.type_url == LISTENER and message.HasField("api_listener")
            resources[body.type_url][name] = Resource(name, version, body, by_name_only)
        return Snapshot(MappingProxyType(resources))


def version_of(versions: Mapping[str, str]) -> str:
    """One version for a set of resources, given the version of each by name."""
    text = "\n".join(f"{name}={version}" for name, version in sorted(versions.items()))
    return xxhash.xxh3_64_hexdigest(text.encode())
