"""Prometheus metrics of a server's load."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from server.pod.admission import Admission
from server.pod.run_queue import RunQueue
from server.rpc.server import RpcServer


class LoadCollector(Collector):
    """Prometheus metrics of a process's load at the time of a scrape."""

    def __init__(self, admission: Admission, queue: RunQueue, server: RpcServer) -> None:
        self._admission, self._queue, self._server = admission, queue, server

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the families."""
        admission, queue, server = self._admission, self._queue, self._server
        slots = admission.slots
        for name, meaning, value in (
            ("rpcs_in_flight", "Calls in flight, including those being read.", server.under_way),
            ("streams_open", "Open streams: health watches and reflection.", server.streams.open),
            (
                "rpcs_queued",
                "Calls that wait for admission.",
                0 if slots is None else slots.waiting,
            ),
            (
                "concurrency_limit",
                "Maximum calls that are worked on concurrently.",
                admission.max_calls if slots is None else slots.size,
            ),
            (
                "queue_wait_seconds",
                "Expected queueing delay of the latest call.",
                admission.latest_wait,
            ),
            (
                "queue_standing",
                "1 while a standing queue causes shedding.",
                float(admission.standing),
            ),
            ("work_queued", "Calls that wait for their run, or run.", queue.queued),
            ("work_mean_seconds", "Recent mean seconds of a run.", queue.mean_run),
        ):
            yield GaugeMetricFamily(f"vireo_{name}", meaning, value=value)
