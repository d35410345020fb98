"""Prometheus metrics of the control plane's clients, snapshot, pods and discovery."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.control.admission import Admission
from server.control.ads import DiscoveryServicer
from server.control.attempts import Attempts
from server.control.snapshot import KINDS, version_of


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
        clients = GaugeMetricFamily(
            "vireo_xds_clients",
            "Connected clients, by kind: envoy or other.",
            labels=["client"],
        )
        refused = GaugeMetricFamily(
            "vireo_xds_refused_resources",
            "Resources of the newest snapshot that a connected client has refused, over all "
            "clients; `vireo control snapshot` shows the reasons.",
            labels=["kind"],
        )
        info = GaugeMetricFamily(
            "vireo_xds_snapshot_info",
            "1 for the version of each kind of resource in the newest snapshot.",
            labels=["kind", "version"],
        )
        endpoints = GaugeMetricFamily(
            "vireo_endpoints",
            "Pods of each cluster: admitted, unadmitted (found, but not healthy yet) or draining.",
            labels=["cluster", "state"],
        )
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
        nodes = [each.node for each in self._servicer.clients.all() if each.connected]
        envoys = sum(node.user_agent.lower().startswith("envoy") for node in nodes)
        clients.add_metric(["envoy"], envoys)
        clients.add_metric(["other"], len(nodes) - envoys)
        for kind, word in KINDS.items():
            refused.add_metric([word], sum(len(node.nacked(kind)) for node in nodes))
        snapshot = self._servicer.snapshot
        for kind, resources in snapshot.resources.items() if snapshot else ():
            versions = {each.name: each.version for each in resources.values()}
            info.add_metric([KINDS[kind], version_of(versions)], 1)
        for pool, counts in self._admission.counts.items():
            for state, count in counts._asdict().items():
                endpoints.add_metric([pool.cluster, state], count)
        for attempts in self._attempts:
            failures.add_metric([attempts.source], attempts.failures)
            age.add_metric([attempts.source], attempts.age)
        yield from (clients, refused, info, endpoints, failures, age)
