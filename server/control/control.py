"""The control plane's main loop: publishes snapshots of pods, the canary's share and keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog

from vireo.server.control import resources
from vireo.server.control.admission import Admission
from vireo.server.control.ads import add_xds_services
from vireo.server.control.attempts import Attempts
from vireo.server.control.channels import ChannelWatch, add_release_services, follow_backups
from vireo.server.control.discovery import Discovery, FileDiscovery, StaticDiscovery
from vireo.server.control.keys import follow_keys
from vireo.server.control.mesh import Mesh
from vireo.server.control.settings import ControlSettings
from vireo.server.errors import VireoError
from vireo.server.releases.channels import Channel
from vireo.server.releases.store import ReleaseStore
from vireo.server.rpc.logs import configure_logs
from vireo.server.rpc.server import RpcServer

log = structlog.get_logger()

_SHARE_SECONDS = 3.0
"""Maximum seconds that the first snapshot waits for the canary's share; S3 may be down."""


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
        self._channels = ChannelWatch(read_channel, lambda share: self._change(canary_share=share))
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
