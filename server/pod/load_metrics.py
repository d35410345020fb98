"""Prometheus metrics of a server's load."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from server.pod.admission import Admission
from server.pod.worker import Worker
from server.rpc.server import RpcServer


class LoadCollector(Collector):
    """Prometheus metrics of a process's load at the time of a scrape."""

    def __init__(self, admission: Admission, worker: Worker, server: RpcServer) -> None:
        """Hold the sources of the metrics."""
        self._admission, self._worker, self._server = admission, worker, server

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the families."""
        admission, worker, server = self._admission, self._worker, self._server
        turns = admission.turns
        limit = admission.max_calls if turns is None else turns.limit.calls
        for name, meaning, value in (
            ("calls_under_way", "Calls that are being read or answered.", server.under_way),
            ("streams_open", "Health watches and other streams.", server.streams.open),
            (
                "calls_waiting",
                "Calls that wait for their turn.",
                0 if turns is None else turns.waiting,
            ),
            ("calls_limit", "Calls that may be under way now.", limit),
            ("queue_wait_seconds", "Expected wait of the latest call.", admission.latest_wait),
            (
                "queue_standing",
                "1 while the queue is standing, not coming and going, so that calls are shed.",
                float(admission.standing),
            ),
            ("work_queued", "Calls that wait for the worker, or run in it.", worker.queued),
            ("work_mean_seconds", "Mean time of a call in the worker.", worker.mean_run),
        ):
            yield GaugeMetricFamily(f"vireo_{name}", meaning, value=value)
