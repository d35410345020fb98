"""Prometheus metrics of the control plane's clients, snapshot, pods and discovery."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.control.admission import Admission
from server.control.ads import DiscoveryServicer
from server.control.attempts import Attempts
from server.control.membership import Counts
from server.control.nodes import Node
from server.control.snapshot import KINDS, version_of

ClientKind = Literal["envoy", "grpc", "other"]


class ControlCollector(Collector):
    """Gauges of a control plane's state, read on each scrape; events are counted elsewhere."""

    def __init__(
        self, servicer: DiscoveryServicer, admission: Admission, attempts: Sequence[Attempts]
    ) -> None:
        """Hold what is read on each scrape; `attempts` has an entry for each source."""
        self._servicer = servicer
        self._admission = admission
        self._attempts = attempts

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families, some of them without samples at first."""
        yield from self._clients()
        yield self._snapshot()
        yield self._endpoints()
        yield from self._discovery()

    def _clients(self) -> Iterator[Metric]:
        clients = GaugeMetricFamily(
            "vireo_xds_clients",
            "Connected clients, by kind: envoy, grpc or other.",
            labels=["client"],
        )
        refused = GaugeMetricFamily(
            "vireo_xds_refused_resources",
            "Resources of the newest snapshot that a connected client has refused, over all "
            "clients; `vireo control snapshot` shows the reasons.",
            labels=["kind"],
        )
        nodes = [node for node in self._servicer.nodes.all() if node.connected]
        connected = Counter(map(_client_kind, nodes))
        for client in get_args(ClientKind):
            clients.add_metric([client], connected[client])
        for kind, word in KINDS.items():
            refused.add_metric([word], sum(len(node.refused(kind)) for node in nodes))
        yield from (clients, refused)

    def _snapshot(self) -> Metric:
        info = GaugeMetricFamily(
            "vireo_xds_snapshot_info",
            "1 for the version of each kind of resource in the newest snapshot.",
            labels=["kind", "version"],
        )
        snapshot = self._servicer.snapshot
        for kind, resources in snapshot.resources.items() if snapshot else ():
            versions = {each.name: each.version for each in resources.values()}
            info.add_metric([KINDS[kind], version_of(versions)], 1)
        return info

    def _endpoints(self) -> Metric:
        endpoints = GaugeMetricFamily(
            "vireo_endpoints",
            "Pods of each cluster: admitted, unadmitted (found, but not healthy yet) or draining.",
            labels=["cluster", "state"],
        )
        for pool, counts in self._admission.counts.items():
            for state in Counts._fields:
                endpoints.add_metric([pool.cluster, state], getattr(counts, state))
        return endpoints

    def _discovery(self) -> Iterator[Metric]:
        failures = CounterMetricFamily(
            "vireo_discovery_failures",
            "Failed attempts to read a source, plus invalid parts of successful ones.",
            labels=["source"],
        )
        age = GaugeMetricFamily(
            "vireo_discovery_success_age_seconds",
            "Time since the last successful read of the source, or since the start if none.",
            labels=["source"],
        )
        for attempts in self._attempts:
            failures.add_metric([attempts.source], attempts.failures)
            age.add_metric([attempts.source], attempts.age)
        yield from (failures, age)


def _client_kind(node: Node) -> ClientKind:
    """Return the kind of a client by its user agent."""
    agent = node.user_agent.lower()
    if agent.startswith("envoy"):
        return "envoy"
    return "grpc" if agent.startswith("grpc") else "other"
