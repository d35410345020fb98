"""The control plane's one loop: what is found and asked for becomes snapshots that are served."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import structlog
from envoy.service.discovery.v3 import ads_pb2, ads_pb2_grpc
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc
from prometheus_client import REGISTRY

from server.control import ads, csds, resources
from server.control.admission import Admission
from server.control.ads import DiscoveryServicer
from server.control.canary import Channels, follow_share
from server.control.csds import StatusServicer
from server.control.discovery.file import FileDiscovery
from server.control.discovery.source import Discovery, StaticDiscovery
from server.control.keys import follow_keys
from server.control.membership import Patience
from server.control.mesh import Members, Mesh, Pool
from server.control.metrics import ControlCollector
from server.control.nodes import Nodes
from server.control.settings import ControlSettings
from server.errors import VireoError
from server.releases.store import ReleaseStore
from server.rpc.logs import configure_logs
from server.rpc.server import RpcServer

log = structlog.get_logger()

_SHARE_SECONDS = 3.0
"""How long the first snapshot waits for the canary's share; S3 may be down."""


class Control:
    """Follows discovery and the canary channel, and publishes a snapshot whenever they change."""

    def __init__(
        self,
        settings: ControlSettings,
        discovery: Discovery,
        channels: Channels,
        servicer: DiscoveryServicer,
    ) -> None:
        """Takes the settings, the sources of endpoints and channels, and who serves snapshots."""
        self._settings = settings
        self._channels = channels
        self._servicer = servicer
        self.mesh = Mesh()
        """What is known now; told once both members and share are."""
        self._members = asyncio.Event()
        self._share = asyncio.Event()
        self._keys = asyncio.Event()
        self._complete = False
        patience = Patience(settings.leave_seconds, settings.empty_seconds)
        self.admission = Admission(
            discovery,
            patience,
            settings.admission_interval,
            settings.first_admission_seconds,
            self._members_changed,
            settings.tls,
        )

    async def run(self, server: RpcServer) -> None:
        """Goes on until cancelled; the server is SERVING from the first snapshot on."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.admission.run())
            group.create_task(
                follow_share(
                    self._channels, self._settings.canary_poll_seconds, self._share_changed
                )
            )
            if self._settings.jwks:
                group.create_task(
                    follow_keys(
                        self._settings.jwks, self._settings.jwks_seconds, self._keys_changed
                    )
                )
                # Without keys every token would be refused, by Envoys that have them too.
                await self._keys.wait()
            await self._members.wait()
            try:
                await asyncio.wait_for(self._share.wait(), _SHARE_SECONDS)
            except TimeoutError:
                log.warning("the canary's share is unknown; no viewer goes there for now")
            self._complete = True
            self._publish()
            await server.set_serving(True)

    def _members_changed(self, members: Mapping[Pool, Members]) -> None:
        self.mesh = replace(self.mesh, members=members)
        self._members.set()
        self._publish()

    def _share_changed(self, share: float) -> None:
        self.mesh = replace(self.mesh, canary_share=share)
        self._share.set()
        self._publish()

    def _keys_changed(self, jwks: str) -> None:
        self.mesh = replace(self.mesh, jwks=jwks)
        self._keys.set()
        self._publish()

    def _publish(self) -> None:
        if self._complete:
            self._servicer.publish(resources.snapshot(self._settings, self.mesh))


def discovery_of(settings: ControlSettings) -> Discovery:
    """The source of endpoints that the settings name.

    Raises:
        VireoError: they name none, or two, or one whose client isn't installed.
    """
    if settings.discovery == "kubernetes":
        return _kubernetes(settings)
    if settings.endpoints_file is not None:
        return FileDiscovery(settings.endpoints_file)
    if settings.endpoints is not None:
        return StaticDiscovery(settings.endpoints.endpoints())
    raise VireoError(
        "nothing says where pods are; set VIREO_ENDPOINTS_FILE to a file that lists them, "
        "VIREO_ENDPOINTS to the list, or VIREO_DISCOVERY to kubernetes"
    )


def _kubernetes(settings: ControlSettings) -> Discovery:
    if settings.endpoints_file is not None or settings.endpoints is not None:
        raise VireoError(
            "VIREO_DISCOVERY=kubernetes finds pods by itself; unset VIREO_ENDPOINTS_FILE and "
            "VIREO_ENDPOINTS, or VIREO_DISCOVERY"
        )
    try:
        # Here, since no other source needs the client.
        from server.control.discovery.kubernetes import KubernetesDiscovery
    except ModuleNotFoundError as error:
        raise VireoError(
            f"VIREO_DISCOVERY=kubernetes needs the module {error.name}; install it with: "
            "pip install 'vireo[kubernetes]'"
        ) from error
    return KubernetesDiscovery(settings.kubernetes)


def control_server(settings: ControlSettings) -> tuple[RpcServer, DiscoveryServicer]:
    """A server with both xDS services, and the one of them that takes snapshots."""
    nodes = Nodes()
    servicer, status = DiscoveryServicer(nodes), StatusServicer(nodes)
    server = RpcServer(settings)
    server.add(
        ads.NAME,
        lambda it: ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(servicer, it),
        ads_pb2.DESCRIPTOR,
    )
    server.add(
        csds.NAME,
        lambda it: csds_pb2_grpc.add_ClientStatusDiscoveryServiceServicer_to_server(status, it),
        csds_pb2.DESCRIPTOR,
    )
    return server, servicer


async def serve_control(settings: ControlSettings) -> None:
    """Serves until told to stop.

    Raises:
        VireoError: the address can't be bound, or nothing says where pods are.
    """
    configure_logs(settings.log_level, pod=settings.pod_name or "control")
    log.info("starting", kind="control", settings=settings.model_dump(mode="json"))
    server, servicer = control_server(settings)
    discovery = discovery_of(settings)
    control = Control(settings, discovery, ReleaseStore(settings.s3), servicer)
    REGISTRY.register(ControlCollector(servicer, control.admission, discovery.attempts))
    await server.run(control.run(server))
