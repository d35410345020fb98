"""A pod: a server process that serves one release of a channel."""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc.aio
import structlog
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import Field

from vireo.server.event_log.jetstream import JetStreamLog, open_log
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.home import Home
from vireo.server.live.live import Live
from vireo.server.live.settings import LiveSettings
from vireo.server.pod import release_service
from vireo.server.pod.announcements import Announcements
from vireo.server.pod.release_service import (
    ReleaseCollector,
    ReleaseFacts,
    Releases,
    ReleaseServicer,
)
from vireo.server.pod.run_queue import RunQueue
from vireo.server.releases.cache import ReleaseCache
from vireo.server.releases.layout import TAKEDOWNS
from vireo.server.releases.loader import ReleaseLoader
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo.server.rpc.admission import MAX_CALLS, MAX_WAIT, Admission, Slots
from vireo.server.rpc.guard import Guard, ServiceLimits, Work
from vireo.server.rpc.logs import configure_logs
from vireo.server.rpc.metrics import export_disk
from vireo.server.rpc.server import RpcServer, run_process
from vireo.server.rpc.settings import RpcSettings, load_settings
from vireo.server.rpc.spans import start_export
from vireo.server.rpc.streams import Places
from vireo.v1 import release_pb2, release_pb2_grpc

log = structlog.get_logger()

T = TypeVar("T")
Background = Callable[[], Coroutine[Any, Any, None]]

_PRODUCTION = "production"
_MAX_KEEP_OFF_PRODUCTION = 10.0
"""Maximum seconds to keep the previous release on pods whose channel gateways don't follow."""


class LoadCollector(Collector):
    """Prometheus metrics of a process's load at the time of a scrape."""

    def __init__(self, slots: Slots, queue: RunQueue, guard: Guard) -> None:
        self._slots, self._queue, self._guard = slots, queue, guard

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the families."""
        slots, guard = self._slots, self._guard
        streams = guard.standard_streams.taken
        for name, meaning, value in (
            ("rpcs_in_flight", "Calls in flight, including those being read.", guard.under_way),
            ("streams_open", "Open streams: health watches and reflection.", streams),
            ("rpcs_queued", "Calls that wait for a slot.", slots.waiting),
            ("concurrency_limit", "Number of slots.", slots.size),
            ("queue_wait_seconds", "Wait of the latest call for its slot.", slots.latest_wait),
            ("queue_standing", "1 while the queue causes shedding.", float(slots.standing)),
            ("work_queued", "Calls that wait for their run, or run.", self._queue.queued),
        ):
            yield GaugeMetricFamily(f"vireo_{name}", meaning, value=value)


class PodSettings(RpcSettings):
    """Settings of every pod."""

    channel: str = Field(default="production", min_length=1)
    """The channel whose release is served."""
    cache: Path = Field(default_factory=lambda: Home.current().cache)
    """Folder of downloaded releases, shared by the pods of a machine."""
    cache_releases: int = Field(default=3, ge=1)
    """Number of releases kept in the cache besides those that the machine's pods served last."""
    control_target: str = ""
    """host:port of the control plane, which announces changes of the channel and tells gateways
    which release all pods serve; if empty, or while it doesn't answer, the channel is polled."""
    keep_previous_seconds: float = Field(default=60.0, ge=0)
    """Seconds to keep the previous release in memory after a swap, for calls pinned to it; at most
    10 if the channel isn't production."""
    shedding: bool = True
    """Whether calls are shed that would wait for too long; if not, only those beyond the number
    that memory is for. For load tests beyond a machine's capacity."""
    oip_http_port: int = Field(default=0, ge=0, le=65535)
    """Port on which candidate and ranking pods serve the Open Inference Protocol by HTTP; 0 for
    none. It needs `pip install 'vireo[http]'`."""
    s3: S3Settings = Field(default_factory=S3Settings.load)
    """Where releases are stored."""
    event_log: EventLogSettings = Field(default_factory=EventLogSettings.load)
    """The log that is followed; none unless VIREO_NATS_URL names it."""
    live: LiveSettings = Field(default_factory=LiveSettings.load)
    """Bounds of what is followed."""

    @property
    def previous_is_kept(self) -> float:
        """Seconds for which the previous release is kept, on the channel that is followed.

        Gateways follow production and pin retrieval to its release: a canary pod that held that
        release as its previous one would answer from it instead of from the canary's.
        """
        if self.channel == _PRODUCTION:
            return self.keep_previous_seconds
        return min(self.keep_previous_seconds, _MAX_KEEP_OFF_PRODUCTION)


@dataclass(frozen=True)
class Pod(Generic[T]):
    """What defines a kind of pod."""

    kind: str
    """Kind of pod, for example "ranking"."""
    service: str
    """Full name of its service."""
    files: Sequence[str]
    """Files of a release that it needs."""
    build: Callable[[Path], T]
    """Builds what is served from a release's folder."""
    register: Callable[[Releases[T], RunQueue, grpc.aio.Server], None]
    """Adds its servicer to the server."""
    max_slates: int | None = None
    """Maximum calls that are worked on concurrently, and that wait for it. None if no call can be
    answered without a run: then the run queue gives the wait."""
    services: Callable[[RpcServer, Releases[T], RunQueue, Admission], None] | None = None
    """Adds further services, given the admission of the first; None if there are none."""
    inference_http: Callable[[RpcServer, RpcSettings, int], Coroutine[Any, Any, None]] | None = None
    """Serves the Open Inference Protocol by HTTP at a port, if the pod has a model."""
    replay: Callable[[T], None] | None = None
    """Raises unless what was built reproduces the recorded golden outputs."""
    ready: Callable[[str], Awaitable[None]] | None = None
    """Returns once it is time to swap to a release, by its id; None to swap at once."""
    background: Sequence[Background] = ()
    """Each runs as long as the pod serves."""
    describe: Callable[[release_pb2.GetServingReleaseResponse], None] | None = None
    """Adds to the pod's description of its release."""
    facts: Callable[[T], ReleaseFacts] | None = None
    """Returns what metrics tell of what was built."""
    places: Places | None = None
    """Those of its service's streams of responses; None if it has none."""
    work: Callable[[Releases[T]], Work] | None = None
    """Returns what states the cost of a request; None if each costs the same."""
    event_log: JetStreamLog | None = None
    """The log that it follows or writes, which is closed once the pod has stopped."""


Settings = TypeVar("Settings", bound="PodSettings")


def run_pod(kind: type[Settings], pod_of: Callable[[Settings], Pod[Any]]) -> None:
    """Run a pod's process by its flags and environment until it is stopped; never returns.

    Args:
        kind: its settings.
        pod_of: returns the pod; called in the event loop that will serve it.
    """

    async def serve() -> None:
        settings = load_settings(kind, sys.argv[1:])
        await serve_pod(pod_of(settings), settings)

    run_process(serve)


async def serve_pod(pod: Pod[Any], settings: PodSettings) -> None:
    """Serve until stopped; raise VireoError if the address can't be bound."""
    name = settings.pod_name or f"{pod.kind}-{settings.port}"
    configure_logs(settings.log_level, pod=name)
    start_export(settings, pod.kind, name)
    log.info("starting", kind=pod.kind, settings=settings.model_dump(mode="json"))
    control, tls = settings.control_target, settings.tls
    announcements = Announcements(control, tls, settings.channel) if control else None
    loader = ReleaseLoader(
        ReleaseStore(settings.s3),
        ReleaseCache(settings.cache, settings.cache_releases),
        channel=settings.channel,
        pod=pod.kind,
        files=pod.files,
        build=pod.build,
        replay=pod.replay,
        ready=pod.ready,
        wait=announcements.wait if announcements else None,
        keep_previous_seconds=settings.previous_is_kept,
    )
    queue = RunQueue(MAX_WAIT if settings.shedding else math.inf)
    server, admission = pod_server(pod, loader, queue, settings, name, shedding=settings.shedding)
    REGISTRY.register(ReleaseCollector(loader, pod.files, pod.facts))
    REGISTRY.register(LoadCollector(admission.slots, queue, server.guard))
    export_disk("cache", settings.cache)

    async def on_first() -> None:
        # Otherwise each full collection walks through all that was imported. What was loaded is
        # freed once it is dropped nonetheless: it has no cycles.
        gc.collect()
        gc.freeze()
        await server.set_serving(True)

    background = [*pod.background]
    if settings.oip_http_port and pod.inference_http is not None:
        background.append(partial(pod.inference_http, server, settings, settings.oip_http_port))
    try:
        await server.run(loader.run(on_first), *(run() for run in background))
    finally:
        if pod.event_log is not None:
            await pod.event_log.close()


def following(
    pod: Pod[T], settings: PodSettings, build: Callable[[Live], Callable[[Path], T]]
) -> Pod[T]:
    """Return the pod so that it follows the log, if the settings name one; `build` reads it.

    Raises:
        VireoError: the log's client library isn't installed.
    """
    event_log = open_log(settings.event_log)
    if event_log is None:
        return pod
    live = Live(event_log, settings.live, settings.cache / TAKEDOWNS)
    return replace(
        pod,
        build=build(live),
        background=(live.run,),
        describe=live.describe,
        event_log=event_log,
    )


def pod_server(
    pod: Pod[T],
    loader: ReleaseLoader[T],
    queue: RunQueue,
    settings: RpcSettings,
    name: str,
    *,
    max_calls: int = MAX_CALLS,
    shedding: bool = True,
) -> tuple[RpcServer, Admission]:
    """Return a server with all services of a pod, not started yet, and the admission of its calls.

    Args:
        pod: the kind of pod.
        loader: has the release that it serves.
        queue: the queue in which its pipeline runs.
        settings: the server's.
        name: name of the pod.
        max_calls: see `Admission`.
        shedding: see `PodSettings`.
    """
    server, slots = RpcServer(settings), queue.slots
    if pod.max_slates is not None:
        slots = Slots(pod.max_slates) if shedding else Slots(max_calls, math.inf)
    admission = Admission(slots, max_calls, runs_in_queue=pod.max_slates is None)
    work = pod.work(loader) if pod.work else None
    server.add(
        pod.service,
        partial(pod.register, loader, queue),
        limits=ServiceLimits(admission, work=work, places=pod.places),
    )
    if pod.services is not None:
        pod.services(server, loader, queue, admission)
    servicer = ReleaseServicer(loader, name, pod.describe)
    server.add(
        release_service.NAME,
        partial(release_pb2_grpc.add_ReleaseServiceServicer_to_server, servicer),
    )
    return server, admission
