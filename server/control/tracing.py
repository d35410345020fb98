"""Traces of Envoy's listeners: which calls are sampled, and the collector of their spans."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from google.protobuf.message import Message

from vireo.server.control import access
from vireo.server.control.settings import ControlSettings
from vireo.server.control.templates import filled, message
from vireo.server.rpc.endpoint import COLLECTOR, Endpoint

Document = dict[str, Any]


def clusters(settings: ControlSettings) -> Iterator[Message]:
    """Yield the collector's cluster; none without one."""
    if not settings.otlp_endpoint:
        return
    cluster = _filled(settings, 0.0)["cluster"]
    if Endpoint.of(settings.otlp_endpoint).secure:
        access.guard_cluster(cluster, COLLECTOR, settings)
    yield message(Cluster, cluster)


def trace_edge(listener: Document, settings: ControlSettings) -> None:
    """Trace a share of the edge's calls, and those of callers who trace them, if they may."""
    manager = _trace(listener, settings, settings.trace_share)
    if settings.otlp_endpoint and not settings.trace_callers:
        document = _filled(settings, settings.trace_share)
        manager["early_header_mutation_extensions"] = document["foreign_traces"]


def trace_inner(listener: Document, settings: ControlSettings) -> None:
    """Trace the calls of an inner listener that the edge has sampled."""
    _trace(listener, settings, 0.0)


def _trace(listener: Document, settings: ControlSettings, share: float) -> Document:
    """Trace a listener's calls, if there is a collector; return its connection manager.

    `share` is that of the calls of callers who don't trace themselves.
    """
    manager: Document = listener["filter_chains"][0]["filters"][0]["typed_config"]
    if settings.otlp_endpoint:
        manager["tracing"] = _filled(settings, share)["tracing"]
    return manager


def _filled(settings: ControlSettings, share: float) -> Document:
    collector = Endpoint.of(settings.otlp_endpoint)
    values = {
        "collector_host": collector.host,
        "collector_port": collector.port,
        "sampled_per_million": round(share * 1e6),
    }
    return filled("tracing", values)
