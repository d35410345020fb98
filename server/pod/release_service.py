"""What a process says of its releases: by ReleaseService, and to Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, TypeAlias, TypeVar

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from vireo.server.releases import layout
from vireo.server.releases.cache import Stage
from vireo.server.releases.loader import LoadFailures, ReleaseLoader, Serving
from vireo.server.releases.manifest import DATA_END, Manifest
from vireo.server.rpc.errors import unavailable
from vireo.v1 import release_pb2, release_pb2_grpc

T = TypeVar("T")
P = TypeVar("P")

NAME = release_pb2.DESCRIPTOR.services_by_name["ReleaseService"].full_name
_RETRY_AFTER = timedelta(seconds=1)


@dataclass(frozen=True, eq=False)
class ReleaseServicer(release_pb2_grpc.ReleaseServiceServicer):
    """Serves the state of a loader."""

    loader: ReleaseLoader[Any]
    pod_name: str
    """Name of this process."""
    describe: Callable[[release_pb2.GetServingReleaseResponse], None] | None = None
    """Adds to responses."""

    async def GetServingRelease(  # noqa: N802
        self, _: release_pb2.GetServingReleaseRequest, _context: Any
    ) -> release_pb2.GetServingReleaseResponse:
        """Return the state of the release on this process."""
        loader = self.loader
        response = release_pb2.GetServingReleaseResponse(
            state=release_pb2.RELEASE_STATE_LOADING,
            channel=loader.channel,
            last_failure=loader.failures.reason,
            pod=self.pod_name,
        )
        if (serving := loader.serving) is not None:
            response.state = release_pb2.RELEASE_STATE_SERVING
            response.release_id = serving.release_id
            response.origin = serving.origin
            response.serving_since.FromDatetime(serving.since)
        if (previous := loader.previous) is not None:
            response.previous_release_id = previous.release_id
        if (progress := loader.progress).stage is not Stage.SERVING:
            response.loading.release_id = progress.release_id
            response.loading.stage = _stage(progress.stage)
            response.loading.bytes_done = progress.bytes_done
            response.loading.bytes_total = progress.bytes_total
        if (failure := loader.failures.latest) is not None:
            response.latest_failure.reason = failure.reason
            response.latest_failure.stage = _stage(failure.stage)
            response.latest_failure.release_id = failure.release_id
            response.latest_failure.time.FromDatetime(failure.at)
        if self.describe is not None:
            self.describe(response)
        return response


def _stage(stage: Stage) -> release_pb2.LoadStage.ValueType:
    return release_pb2.LoadStage.Value(f"LOAD_STAGE_{stage.name}")


@dataclass(frozen=True)
class Part(Generic[T, P]):
    """One service's part of a process's releases: all services of it swap at once."""

    whole: Releases[T]
    of: Callable[[T], P]
    """Returns the service's part of a release's content."""

    @property
    def serving(self) -> Serving[P] | None:
        """The release that is served; None until one is loaded."""
        return self._part(self.whole.serving)

    @property
    def failures(self) -> LoadFailures:
        """Failures of loading."""
        return self.whole.failures

    def find(self, release_id: str) -> Serving[P] | None:
        """Return the release in memory with this id; None if there is none."""
        return self._part(self.whole.find(release_id))

    def _part(self, held: Serving[T] | None) -> Serving[P] | None:
        if held is None:
            return None
        return Serving(self.of(held.content), held.release_id, held.since, held.origin)


Releases: TypeAlias = ReleaseLoader[T] | Part[Any, T]
"""The releases that a process has in memory, as one of its services sees them."""


def served(loader: Releases[T], pinned_id: str = "") -> Serving[T]:
    """Return the release that a call is answered from, for the call to keep.

    Args:
        loader: has the releases of this process.
        pinned_id: the release that the caller prefers, empty for none: it is returned while it
            is held, else the one that is served.

    Raises:
        RpcError: UNAVAILABLE while nothing is loaded.
    """
    pinned = loader.find(pinned_id) if pinned_id else None
    if pinned is not None:
        return pinned
    if loader.serving is None:
        reason = loader.failures.reason or "it is being loaded"
        raise unavailable(f"no release is loaded yet: {reason}", _RETRY_AFTER)
    return loader.serving


@dataclass(frozen=True)
class ReleaseFacts:
    """What metrics tell of the release that a pod serves."""

    manifest: Manifest
    caches: Mapping[str, int] = field(default_factory=dict)
    """Bytes of each cache that belongs to the release, by its name."""


@dataclass(frozen=True, eq=False)
class ReleaseCollector(Collector):
    """The releases that a process holds and loads, at the time of a scrape."""

    loader: ReleaseLoader[Any]
    """Has the releases."""
    files: Sequence[str] = ()
    """Files of a release that the process needs."""
    facts: Callable[[Any], ReleaseFacts] | None = None
    """Returns what is told of a release's content."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the families, some of them without samples."""
        loader = self.loader
        serving, load, failing = loader.serving, loader.progress, bool(loader.failures.reason)
        facts = self.facts(serving.content) if self.facts and serving else None
        info = GaugeMetricFamily(
            "vireo_release_info",
            "1 for each release in memory, by its role: serving or previous.",
            labels=["release", "channel", "origin", "role"],
        )
        for role, held in (("serving", serving), ("previous", loader.previous)):
            if held is not None:
                info.add_metric([held.release_id, loader.channel, held.origin, role], 1)
        stage = GaugeMetricFamily(
            "vireo_release_load_stage", "1 for the loader's current stage.", labels=["stage"]
        )
        for each in Stage:
            stage.add_metric([each.value], float(each is load.stage))
        yield from (info, stage)
        if facts and facts.caches:
            caches = GaugeMetricFamily(
                "vireo_cache_bytes", "Memory of the served release's caches.", labels=["cache"]
            )
            for cache, size in facts.caches.items():
                caches.add_metric([cache], size)
            yield caches
        since = serving.since.timestamp() if serving else None
        for name, meaning, value in (
            ("release_serving_since_timestamp_seconds", "When it was swapped in.", since),
            ("release_load_done_bytes", "Bytes of the load that have arrived.", load.bytes_done),
            ("release_load_expected_bytes", "Size of what is being loaded.", load.bytes_total),
            ("release_failing", "1 while following the channel fails.", failing),
            *(self._of_served(facts.manifest) if facts else ()),
        ):
            if value is not None:
                yield GaugeMetricFamily(f"vireo_{name}", meaning, value=float(value))

    def _of_served(self, manifest: Manifest) -> Iterator[tuple[str, str, float | None]]:
        """Yield metrics of the files that this process has, as far as they are known."""
        entries = manifest.files
        sizes = {path: entries[path].size for path in self.files if path in entries}
        models = [size for path, size in sizes.items() if path.endswith(".onnx")]
        created, data_end = manifest.created_at.timestamp(), manifest.metrics.get(DATA_END)
        yield "release_created_timestamp_seconds", "When it was trained.", created
        yield "release_data_timestamp_seconds", "End of its data.", data_end
        yield "release_files_bytes", "Size of the files.", sum(sizes.values())
        yield "index_bytes", "Size of the mapped index.", sizes.get(layout.VIDEO_INDEX)
        yield "model_bytes", "Size of the models.", sum(models) if models else None
