"""Prometheus metrics of a process's releases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from vireo.server.releases import layout
from vireo.server.releases.loader import ReleaseLoader
from vireo.server.releases.manifest import DATA_END, Manifest
from vireo.server.releases.progress import Stage


@dataclass(frozen=True)
class ReleaseFacts:
    """What metrics tell of the release that a pod serves."""

    manifest: Manifest
    caches: Mapping[str, int] = field(default_factory=dict)
    """Bytes of each cache that belongs to the release, by its name."""


class ReleaseCollector(Collector):
    """The releases that a process holds and loads, at the time of a scrape."""

    def __init__(
        self,
        loader: ReleaseLoader[Any],
        files: Sequence[str] = (),
        facts: Callable[[Any], ReleaseFacts] | None = None,
    ) -> None:
        """Read these on each scrape.

        Args:
            loader: has the releases.
            files: files of a release that the process needs.
            facts: returns what is told of a release's content.
        """
        self._loader, self._files, self._facts = loader, files, facts

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
        for role, held in (("serving", loader.serving), ("previous", loader.previous)):
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
        serving = loader.serving
        if self._facts is not None and serving is not None:
            yield from self._of_served(self._facts(serving.content))

    def _of_served(self, facts: ReleaseFacts) -> Iterator[GaugeMetricFamily]:
        """Yield what concerns the release that is served, as far as the process has it."""
        entries = facts.manifest.files
        sizes = {path: entries[path].size for path in self._files if path in entries}
        yield GaugeMetricFamily(
            "vireo_release_created_timestamp_seconds",
            "When the served release was trained.",
            value=facts.manifest.created_at.timestamp(),
        )
        if DATA_END in facts.manifest.metrics:
            yield GaugeMetricFamily(
                "vireo_release_data_timestamp_seconds",
                "End of the data that the served release was trained on.",
                value=facts.manifest.metrics[DATA_END],
            )
        yield GaugeMetricFamily(
            "vireo_release_files_bytes",
            "Size of the served release's files that this process has.",
            value=sum(sizes.values()),
        )
        if layout.VIDEO_INDEX in sizes:
            yield GaugeMetricFamily(
                "vireo_index_bytes",
                "Size of the served index of video vectors, which is mapped.",
                value=sizes[layout.VIDEO_INDEX],
            )
        models = [size for path, size in sizes.items() if path.endswith(".onnx")]
        if models:
            yield GaugeMetricFamily(
                "vireo_model_bytes", "Size of the served models.", value=sum(models)
            )
        if facts.caches:
            caches = GaugeMetricFamily(
                "vireo_cache_bytes",
                "Memory of the caches that belong to the served release.",
                labels=["cache"],
            )
            for name, held in facts.caches.items():
                caches.add_metric([name], held)
            yield caches
