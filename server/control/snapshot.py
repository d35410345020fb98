"""Immutable snapshots of all resources, each with a version derived from its content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

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
"""Display name of each kind, by type URL."""
WARMING_ORDER = (CLUSTER, ENDPOINTS, LISTENER, ROUTES)
"""Order of sending new resources: clusters and their endpoints before routes that use them."""
REMOVAL_ORDER = (LISTENER, ROUTES, CLUSTER, ENDPOINTS)
"""Order of removals: resources that refer to others go before those."""


@dataclass(frozen=True)
class Resource:
    """One listener, route configuration, cluster or load assignment."""

    name: str
    version: str
    """Digest of the content: equal resources have equal versions, also after a restart."""
    body: any_pb2.Any

    @staticmethod
    def of(message: Message, content: bytes | None = None) -> Resource:
        """Return the resource of a message.

        Args:
            message: the message of Envoy's API.
            content: what it was made from, if its own bytes aren't the same in each process, as
                with maps in a nested Any.
        """
        body = any_pb2.Any()
        body.Pack(message, deterministic=True)
        name: str = getattr(message, "cluster_name", "") or getattr(message, "name", "")
        return Resource(name, xxhash.xxh3_64_hexdigest(content or body.value), body)


Snapshot: TypeAlias = Mapping[str, Mapping[str, Resource]]
"""All resources, by type URL, then name."""


def by_kind(found: Iterable[Resource]) -> Snapshot:
    """Return the snapshot of these resources, which are of kinds that are served."""
    resources: dict[str, dict[str, Resource]] = {kind: {} for kind in KINDS}
    for each in found:
        resources[each.body.type_url][each.name] = each
    return resources


def version_of(versions: Mapping[str, str]) -> str:
    """Return a version for a set of resources, given the version of each by name."""
    text = "\n".join(f"{name}={version}" for name, version in sorted(versions.items()))
    return xxhash.xxh3_64_hexdigest(text.encode())
