"""The control plane's main loop: publishes snapshots of pods, the canary's share and keys."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import structlog
from envoy.service.discovery.v3 import ads_pb2, ads_pb2_grpc
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc
from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vireo.server.control import ads, csds, resources
from vireo.server.control.admission import Admission
from vireo.server.control.ads import DiscoveryServicer, Limits
from vireo.server.control.attempts import Attempts
from vireo.server.control.backup_age import follow_backups
from vireo.server.control.canary import Channels, follow_share
from vireo.server.control.channels import ChannelWatch, add_channel_service
from vireo.server.control.clients import Clients
from vireo.server.control.csds import StatusServicer
from vireo.server.control.discovery.file import FileDiscovery
from vireo.server.control.discovery.source import Discovery, StaticDiscovery
from vireo.server.control.keys import follow_keys
from vireo.server.control.mesh import Mesh
from vireo.server.control.settings import ControlSettings
from vireo.server.control.snapshot import KINDS, version_of
from vireo.server.errors import VireoError
from vireo.server.releases.store import ReleaseStore
from vireo.server.rpc.logs import configure_logs
from vireo.server.rpc.server import RpcServer

log = structlog.get_logger()

_SHARE_SECONDS = 3.0
"""Maximum seconds that the first snapshot waits for the canary's share; S3 may be down."""


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
        for kind, current in snapshot.resources.items() if snapshot else ():
            versions = {each.name: each.version for each in current.values()}
            info.add_metric([KINDS[kind], version_of(versions)], 1)
        for pool, counts in self._admission.counts.items():
            for state, count in counts._asdict().items():
                endpoints.add_metric([pool.cluster, state], count)
        for attempts in self._attempts:
            failures.add_metric([attempts.source], attempts.failures)
            age.add_metric([attempts.source], attempts.age)
        yield from (clients, refused, info, endpoints, failures, age)


class Control:
    """Follows discovery, the canary channel and keys, and publishes a snapshot on each change."""

    def __init__(
        self,
        settings: ControlSettings,
        discovery: Discovery,
        channels: Channels,
        servicer: DiscoveryServicer,
    ) -> None:
        """Start with an empty mesh; `channels` has the canary's share and what pods follow."""
        self._settings = settings
        self._channels = channels
        self._servicer = servicer
        self.mesh = Mesh()
        """The current mesh; published once members, share and keys are known."""
        self._known = {part: asyncio.Event() for part in ("members", "canary_share", "jwks")}
        self._complete = False
        self._share_used = asyncio.Event()
        """Set while there are canary pods."""
        self._canary_attempts, self._keys_attempts = Attempts("canary"), Attempts("keys")
        self.admission = Admission(
            settings, discovery, lambda members: self._change(members=members)
        )
        self.channel_watch = ChannelWatch(channels, settings.channel_poll_seconds)
        """The channels that pods follow."""
        self.attempts = [
            *self.admission.attempts,
            self._canary_attempts,
            self.channel_watch.attempts,
        ]
        """Attempts to read each source, and to publish members."""
        if settings.jwks:
            self.attempts.append(self._keys_attempts)

    async def run(self, server: RpcServer) -> None:
        """Run until cancelled; the server is SERVING from the first snapshot on."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.admission.run())
            group.create_task(self.channel_watch.run())
            group.create_task(
                follow_share(
                    self._channels,
                    self._settings.canary_poll_seconds,
                    lambda share: self._change(canary_share=share),
                    self._canary_attempts,
                    self._share_used,
                )
            )
            if self._settings.jwks:
                group.create_task(
                    follow_keys(
                        self._settings.jwks,
                        self._settings.jwks_refresh_seconds,
                        lambda jwks: self._change(jwks=jwks),
                        self._keys_attempts,
                    )
                )
                # A snapshot without keys would make even Envoys that have them reject every token.
                await self._known["jwks"].wait()
            await self._known["members"].wait()
            try:
                await asyncio.wait_for(self._known["canary_share"].wait(), _SHARE_SECONDS)
            except TimeoutError:
                log.warning("canary share unknown; using 0 until it can be read")
            self._complete = True
            self._change()
            await server.set_serving(True)

    def _change(self, **news: Any) -> None:
        """Change parts of the mesh, and publish it once it is complete.

        A change that yields no valid snapshot is dropped, since it would fail all later ones.
        """
        mesh = replace(self.mesh, **news)
        snapshot = resources.snapshot(self._settings, mesh)
        self.mesh = mesh
        if mesh.has_canary:
            self._share_used.set()
        else:
            self._share_used.clear()
        if self._complete:
            self._servicer.publish(snapshot)
        for part in news:
            self._known[part].set()


def discovery_of(settings: ControlSettings) -> Discovery:
    """Return the source of endpoints that the settings name.

    Raises:
        VireoError: they name none, or two, or one whose client isn't installed.
    """
    if settings.discovery == "kubernetes":
        if settings.endpoints_file is not None or settings.endpoints is not None:
            raise VireoError(
                "VIREO_DISCOVERY=kubernetes finds pods by itself; unset VIREO_ENDPOINTS_FILE and "
                "VIREO_ENDPOINTS, or VIREO_DISCOVERY"
            )
        try:
            # Imported here, since no other source needs the client.
            from vireo.server.control.discovery.kubernetes import KubernetesDiscovery
        except ModuleNotFoundError as error:
            raise VireoError(
                f"VIREO_DISCOVERY=kubernetes needs the module {error.name}; install it with: "
                "pip install 'vireo[kubernetes]'"
            ) from error
        return KubernetesDiscovery(settings.kubernetes)
    if settings.endpoints_file is not None:
        return FileDiscovery(settings.endpoints_file)
    if settings.endpoints is not None:
        return StaticDiscovery(settings.endpoints.endpoints())
    raise VireoError(
        "no source of endpoints is set; set VIREO_ENDPOINTS_FILE to a file that lists pods, "
        "VIREO_ENDPOINTS to the list, or VIREO_DISCOVERY to kubernetes"
    )


def control_server(settings: ControlSettings) -> tuple[RpcServer, DiscoveryServicer]:
    """Return a server with both xDS services, and the servicer to publish snapshots to."""
    clients = Clients()
    # The rest is reserved for other calls, such as health checks.
    limits = Limits(all=max(1, settings.max_concurrent_rpcs * 3 // 4))
    servicer, status = DiscoveryServicer(clients, limits), StatusServicer(clients)
    server = RpcServer(settings)
    add_ads = ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server
    add_csds = csds_pb2_grpc.add_ClientStatusDiscoveryServiceServicer_to_server
    server.add(ads.NAME, partial(add_ads, servicer), ads_pb2.DESCRIPTOR)
    server.add(csds.NAME, partial(add_csds, status), csds_pb2.DESCRIPTOR)
    return server, servicer


async def serve_control(settings: ControlSettings) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        VireoError: the address can't be bound, or no source of endpoints is set.
    """
    configure_logs(settings.log_level, pod=settings.pod_name or "control")
    log.info("starting", kind="control", settings=settings.model_dump(mode="json"))
    server, servicer = control_server(settings)
    discovery = discovery_of(settings)
    # Channels are read again soon: no read is worth a long wait.
    store = ReleaseStore(settings.s3.with_short_timeouts())
    control = Control(settings, discovery, store, servicer)
    add_channel_service(server, control.channel_watch)
    REGISTRY.register(ControlCollector(servicer, control.admission, control.attempts))
    await server.run(control.run(server), follow_backups(store.bucket))
