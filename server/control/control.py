"""The control plane's main loop: publishes snapshots of pods, the canary's share and keys.

It follows discovery, and checks the health of new pods: which of them are members of a pool.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog
from prometheus_client import Gauge

from vireo.server.control import resources
from vireo.server.control.ads import add_xds_services
from vireo.server.control.attempts import Attempts
from vireo.server.control.channels import ChannelWatch, add_release_services, follow_backups
from vireo.server.control.discovery import Discovery, FileDiscovery, StaticDiscovery
from vireo.server.control.keys import follow_keys
from vireo.server.control.mesh import GRPC_SERVICES, POOLS, Endpoint, Endpoints, Mesh, Pool
from vireo.server.control.settings import ControlSettings
from vireo.server.errors import VireoError
from vireo.server.releases.channels import Channel
from vireo.server.releases.store import ReleaseStore
from vireo.server.rpc.health import health_problem
from vireo.server.rpc.logs import configure_logs
from vireo.server.rpc.server import RpcServer

log = structlog.get_logger()

ENDPOINTS = Gauge(
    "vireo_endpoints",
    "Pods of each cluster: admitted, or unadmitted (found, but not healthy yet).",
    ["cluster", "state"],
)
_CHECK_SECONDS = 0.5
_INTERVAL_SECONDS = 0.25
"""Seconds between health checks of the pods that have not been healthy yet."""
_IDLE_SECONDS = 5.0
"""Seconds between looks at pools without such pods: some may have been empty for long enough."""
_PARALLEL_CHECKS = 64
_FIRST_SECONDS = 5.0
"""Maximum seconds to wait at the start for production's pods: Envoy would send calls to a pod that
doesn't listen yet, and count them as its errors."""
_EMPTY_SECONDS = 30.0
"""Seconds for which discovery must find no pods before a pool is emptied."""
_SHARE_SECONDS = 3.0
"""Maximum seconds that the first snapshot waits for the canary's share; S3 may be down."""


class Membership:
    """The pods of one pool. Times are seconds of the same monotonic clock."""

    def __init__(self, *, trusting: bool) -> None:
        """Start without pods.

        Args:
            trusting: whether all pods are members while none has been healthy. A control plane
                that can't reach the pods itself then removes none, and Envoy's own health checks
                decide.
        """
        self._trusting = trusting
        self._present: frozenset[Endpoint] = frozenset()
        self._admitted: frozenset[Endpoint] = frozenset()
        self._empty_since: float | None = None

    def found(self, endpoints: Collection[Endpoint], now: float) -> None:
        """Update the pods by what discovery finds now."""
        if endpoints or not self._present:
            self._present, self._empty_since = frozenset(endpoints), None
        elif self._empty_since is None:
            self._empty_since = now

    def admit(self, endpoint: Endpoint) -> None:
        """Admit a pod; from then on only Envoy's own health checks apply."""
        if endpoint in self._present:
            self._admitted |= {endpoint}

    @property
    def waiting(self) -> frozenset[Endpoint]:
        """The pods that are not admitted yet."""
        return self._present - self._admitted

    def members(self, now: float) -> frozenset[Endpoint]:
        """Return the pods that Envoy must have now; calls under way on pods it loses end well."""
        if self._empty_since is not None and now - self._empty_since >= _EMPTY_SECONDS:
            self._present = self._admitted = frozenset()
            self._empty_since = None
        if current := self._present & self._admitted:
            self._admitted = current  # pods that are gone stay until others replace them
        return self._admitted or (self._present if self._trusting else frozenset())

    def export(self, cluster: str) -> None:
        """Export the number of pods in each state."""
        ENDPOINTS.labels(cluster, "admitted").set(len(self._admitted))
        ENDPOINTS.labels(cluster, "unadmitted").set(len(self.waiting))


class Admission:
    """The members of every pool, kept up to date by `run`."""

    def __init__(
        self,
        settings: ControlSettings,
        discovery: Discovery,
        changed: Callable[[Endpoints], None],
    ) -> None:
        """Start without members.

        `changed` is called with all members once production's pods are healthy, or their time is
        over, and on each change.
        """
        self._settings = settings
        self._discovery = discovery
        self._publishing = Attempts("members")
        self._changed = changed
        # Only production's pods are trusted before their first successful check: production
        # stands in for a canary pool.
        self._pools = {pool: Membership(trusting=pool.name == "production") for pool in POOLS}
        self._found = asyncio.Event()
        """Set when discovery finds other pods than before."""
        self._checked = False
        self._published: Endpoints | None = None
        self._checks = asyncio.Semaphore(_PARALLEL_CHECKS)

    async def run(self) -> None:
        """Follow discovery and check pods until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._discovery.follow(self._update))
            group.create_task(self._check())

    def _update(self, endpoints: Endpoints) -> None:
        for pool, membership in self._pools.items():
            membership.found(endpoints.get(pool, frozenset()), time.monotonic())
        log.info("pods found", **{pool.cluster: len(each) for pool, each in endpoints.items()})
        self._found.set()
        self._publish()

    async def _check(self) -> None:
        await self._found.wait()
        end = time.monotonic() + _FIRST_SECONDS
        await self._check_once()
        while time.monotonic() < end and any(p.name == "production" for p, _ in self._waiting()):
            await asyncio.sleep(_INTERVAL_SECONDS)
            await self._check_once()
        # Envoys may have all of production's pods from a previous control plane, and would drop any
        # that is left out: one that isn't healthy yet is for Envoy's own health checks to judge.
        for pool, endpoint in sorted(self._waiting()):
            if pool.name == "production":
                log.info("unhealthy pod admitted", pool=pool.cluster, endpoint=str(endpoint))
                self._pools[pool].admit(endpoint)
        self._checked = True
        while True:
            self._publish()
            self._found.clear()
            pause = _INTERVAL_SECONDS if self._waiting() else _IDLE_SECONDS
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._found.wait()
            await self._check_once()

    def _waiting(self) -> list[tuple[Pool, Endpoint]]:
        return [(pool, endpoint) for pool, each in self._pools.items() for endpoint in each.waiting]

    async def _check_once(self) -> None:
        async with asyncio.TaskGroup() as group:
            for pool, endpoint in self._waiting():
                group.create_task(self._admit_if_healthy(pool, endpoint))

    async def _admit_if_healthy(self, pool: Pool, endpoint: Endpoint) -> None:
        service, tls = GRPC_SERVICES[pool.service], self._settings.tls
        async with self._checks:
            if not await health_problem(str(endpoint), service, _CHECK_SECONDS, tls, pool.service):
                log.info("pod admitted", pool=pool.cluster, endpoint=str(endpoint))
                self._pools[pool].admit(endpoint)

    def _publish(self) -> None:
        if not self._checked:
            return
        now = time.monotonic()
        members = {pool: membership.members(now) for pool, membership in self._pools.items()}
        for pool, membership in self._pools.items():
            membership.export(pool.cluster)
        with self._publishing.contained():
            if members != self._published:
                self._changed(members)
                self._published = members
            self._publishing.succeeded()


class Control:
    """Follows discovery, the canary channel and keys, and publishes a snapshot on each change."""

    def __init__(
        self,
        settings: ControlSettings,
        discovery: Discovery,
        read_channel: Callable[[str], Channel | None],
        server: RpcServer,
    ) -> None:
        """Start with an empty mesh, and add the services to a server.

        Args:
            settings: the control plane's.
            discovery: the source of endpoints.
            read_channel: reads the canary's share and what pods follow; see `ChannelWatch`.
            server: reports SERVING from the first snapshot on.
        """
        self._settings = settings
        self._server = server
        self.mesh = Mesh()
        """The current mesh; published once members, share and keys are known."""
        self._known = {part: asyncio.Event() for part in ("members", "canary_share", "jwks")}
        self._complete = False
        self._admission = Admission(
            settings, discovery, lambda members: self._change(members=members)
        )
        self._channels = ChannelWatch(
            read_channel, lambda share: self._change(canary_share=share), lambda: server.serving
        )
        self.servicer = add_xds_services(server)
        add_release_services(server, self._channels, lambda: self.mesh, settings.tls)

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._admission.run())
            group.create_task(self._channels.run())
            if self._settings.jwks:
                keys = follow_keys(
                    self._settings.jwks,
                    lambda jwks: self._change(jwks=jwks),
                    Attempts("keys"),
                )
                group.create_task(keys)
                # A snapshot without keys would make even Envoys that have them reject every token.
                await self._known["jwks"].wait()
            await self._known["members"].wait()
            try:
                await asyncio.wait_for(self._known["canary_share"].wait(), _SHARE_SECONDS)
            except TimeoutError:
                log.warning("canary share unknown; using 0 until it can be read")
            self._complete = True
            self._change()
            await self._server.set_serving(True)

    def _change(self, **news: Any) -> None:
        """Change parts of the mesh, and publish it once it is complete.

        A change that yields no valid snapshot is dropped, since it would fail all later ones.
        """
        mesh = replace(self.mesh, **news)
        snapshot = resources.snapshot(self._settings, mesh)
        self.mesh = mesh
        if self._complete:
            self.servicer.publish(snapshot)
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
            from vireo.server.control.kubernetes import KubernetesDiscovery
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


async def serve_control(settings: ControlSettings) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        VireoError: the address can't be bound, or no source of endpoints is set.
    """
    configure_logs(settings.log_level, pod=settings.pod_name or "control")
    log.info("starting", kind="control", settings=settings.model_dump(mode="json"))
    server = RpcServer(settings)
    # Channels are read again soon: no read is worth a long wait.
    store = ReleaseStore(settings.s3.with_short_timeouts())
    control = Control(settings, discovery_of(settings), store.read_channel, server)
    await server.run(control.run(), follow_backups(store.bucket))
