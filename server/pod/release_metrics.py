"""Prometheus metrics of a process's releases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from server.releases.loader import ReleaseLoader
from server.releases.progress import Stage


class ReleaseCollector(Collector):
    """The releases that a process holds and loads, at the time of a scrape."""

    def __init__(self, loader: ReleaseLoader[Any]) -> None:
        self._loader = loader

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the families, some of them without samples."""
        loader = self._loader
        info = GaugeMetricFamily(
            "vireo_release_info",
            "1 for each release in memory, by its role: serving or previous.",
            labels=["release", "channel", "origin", "role"],
        )
        since = GaugeMetricFamily(
            "vireo_release_serving_since_timestamp_seconds",
            "When the served release was swapped in; absent until there is one.",
        )
        for role, held in (("serving", loader.held.serving), ("previous", loader.held.previous)):
            if held is not None:
                info.add_metric([held.release_id, loader.channel, held.origin, role], 1)
                if role == "serving":
                    since.add_metric([], held.since.timestamp())
        progress = loader.progress
        stage = GaugeMetricFamily(
            "vireo_release_load_stage", "1 for the loader's current stage.", labels=["stage"]
        )
        for each in Stage:
            stage.add_metric([each.value], float(each is progress.stage))
        done = GaugeMetricFamily(
            "vireo_release_load_done_bytes",
            "Bytes of the release being loaded that have arrived; 0 while none is loaded.",
            value=progress.bytes_done,
        )
        total = GaugeMetricFamily(
            "vireo_release_load_expected_bytes",
            "Size of the release being loaded; 0 while none is loaded.",
            value=progress.bytes_total,
        )
        failing = GaugeMetricFamily(
            "vireo_release_failing",
            "1 while the latest attempt to follow the channel has failed; ReleaseService says why.",
            value=float(bool(loader.failures.reason)),
        )
        yield from (info, since, stage, done, total, failing)
