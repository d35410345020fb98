"""What the control plane tells of releases, and reads from their bucket.

ChannelService tells pods as soon as their channel changes, and ReleaseService tells gateways which
release all candidate and ranking pods serve. Besides, the canary's share and backups are read.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import grpc
import grpc.aio
import structlog
from prometheus_client import Gauge

from vireo.server.control.attempts import Attempts
from vireo.server.control.mesh import INNER, Endpoint, Mesh, Pool, Service
from vireo.server.errors import VireoError
from vireo.server.releases.bucket import Bucket
from vireo.server.releases.channels import CANARY, Channel
from vireo.server.releases.manifest import CHANNEL_NAME
from vireo.server.releases.s3 import BackupSettings
from vireo.server.rpc.errors import RpcError, invalid_argument, unavailable
from vireo.server.rpc.server import RpcServer
from vireo.server.rpc.tls import TlsFiles, open_channel
from vireo.v1 import channel_pb2 as pb
from vireo.v1 import channel_pb2_grpc, release_pb2, release_pb2_grpc

log = structlog.get_logger()

NAME = pb.DESCRIPTOR.services_by_name["ChannelService"].full_name
RELEASES_NAME = release_pb2.DESCRIPTOR.services_by_name["ReleaseService"].full_name
MAX_CHANNELS = 16
"""Maximum channels that are read for pods."""
_POLL_SECONDS = 2.0
_FORGET_SECONDS = 30.0
"""A channel without a call for this long is no longer read."""
_STALE_SECONDS = 5.0
"""Age from which on a read no longer vouches for what the channel names."""
_RETRY_AFTER = timedelta(seconds=1)

MARKER = "backups/latest"
"""Object of the bucket of releases: when the last complete backup began, ISO 8601."""
BACKUP_BEGAN = Gauge(
    "vireo_last_backup_timestamp_seconds",
    "When the last complete backup began: all before is in it. NaN if there is none, 0 if there "
    "should be.",
)
BACKUP_BEGAN.set(math.nan)
_BACKUP_POLL_SECONDS = 60.0


_POD_SECONDS = 1.0
"""Maximum seconds for a pod's response; one that hangs doesn't serve the release."""
_PARALLEL_CALLS = 64
_REUSE_SECONDS = 0.5
"""Seconds for which a response is reused: many gateways ask as often as one."""


class ChannelWatch(channel_pb2_grpc.ChannelServiceServicer):
    """The canary's share, and the release that each channel names for which pods ask.

    They are answered as soon as it changes. Use it from one event loop. Times are of the monotonic
    clock.
    """

    def __init__(
        self,
        read: Callable[[str], Channel | None],
        changed: Callable[[float], None],
        serving: Callable[[], bool],
    ) -> None:
        """Start without channels.

        Args:
            read: returns a channel by its name, or None if it was never set.
            changed: called with the canary's share, 0 to 1, once it is known and on each change.
            serving: whether the control plane serves: calls aren't held while it doesn't.
        """
        self.attempts = Attempts("channels")
        """Attempts to read channels; one fails if no channel can be read."""
        self._read_channel = read
        self._changed, self._serving = changed, serving
        self._share: float | None = None
        self._asked_at: dict[str, float] = {}
        """When each channel was last asked for."""
        self._found: dict[str, tuple[float, str]] = {}
        """When each channel was last read, and the release that it named."""
        self._wake = asyncio.Event()
        self._read = asyncio.Event()
        """Set after the channels were read, and then replaced."""

    async def run(self) -> None:
        """Read the channels until cancelled."""
        while True:
            self._wake.clear()
            await self._read_all()
            self._read.set()
            self._read = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.attempts.pause(_POLL_SECONDS)):
                    await self._wake.wait()

    def release_id(self, name: str) -> str | None:
        """Return the release that a channel names, empty if none; None if that isn't known now.

        Raises:
            RpcError: RESOURCE_EXHAUSTED if this is one channel too many.
        """
        if name not in self._asked_at:
            if len(self._asked_at) >= MAX_CHANNELS:
                raise RpcError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"{MAX_CHANNELS} other channels are followed already; read this one yourself",
                )
            self._wake.set()  # it is read at once
        self._asked_at[name] = now = time.monotonic()
        read_at, release_id = self._found.get(name, (float("-inf"), ""))
        return release_id if now - read_at < _STALE_SECONDS else None

    async def next_read(self, seconds: float) -> None:
        """Return after the channels have been read again, or once the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._read.wait()

    async def AwaitRelease(  # noqa: N802
        self, request: pb.AwaitReleaseRequest, _context: Any
    ) -> pb.AwaitReleaseResponse:
        """Return the release that a channel names, once it is another or the wait is over."""
        if not re.fullmatch(CHANNEL_NAME, request.channel):
            raise invalid_argument([("channel", f"{request.channel!r} can't be a channel")])
        loop = asyncio.get_running_loop()
        end = loop.time() + request.max_wait_milliseconds / 1000
        release_id = self.release_id(request.channel)
        for _ in range(2):  # a new one is read at once, if not by the read that is under way
            if release_id is None:
                await self.next_read(_STALE_SECONDS)
                release_id = self.release_id(request.channel)
        while release_id == request.known_release_id and loop.time() < end and self._serving():
            await self.next_read(end - loop.time())
            release_id = self.release_id(request.channel)
        if release_id is None:
            raise unavailable(f"channel {request.channel} can't be read", _RETRY_AFTER)
        if not self._serving():
            raise unavailable("the control plane starts or shuts down", _RETRY_AFTER)
        return pb.AwaitReleaseResponse(release_id=release_id)

    async def _read_all(self) -> None:
        began = time.monotonic()
        self._asked_at = {
            name: at for name, at in self._asked_at.items() if at >= began - _FORGET_SECONDS
        }
        names = {CANARY, *self._asked_at}
        failures: list[Exception] = []
        reads = (asyncio.to_thread(self._read_channel, name) for name in names)
        results = await asyncio.gather(*reads, return_exceptions=True)
        for name, result in zip(names, results, strict=True):
            # Declared policy: whatever can't be read or used, the last known share stays, and pods
            # poll their channel themselves.
            try:
                if isinstance(result, BaseException):
                    raise result
                self._apply(name, result)
            except Exception as error:  # noqa: BLE001
                failures.append(error)
        if len(failures) == len(names):
            self.attempts.failed(failures[0])
        else:
            self.attempts.succeeded(frozenset(map(str, failures)))

    def _apply(self, name: str, channel: Channel | None) -> None:
        """Note what a channel says now."""
        now = time.monotonic()
        self._found[name] = now, channel.release_id if channel else ""
        if name == CANARY:
            share = channel.pointer.share if channel else 0.0
            if share != self._share:
                self._changed(share)
                self._share = share
                log.info("canary share", share=share)


class PodReleases(release_pb2_grpc.ReleaseServiceServicer):
    """Serves the release of production's pods, which gateways follow; it asks pods when called."""

    def __init__(self, mesh: Callable[[], Mesh], tls: TlsFiles | None) -> None:
        """Ask the pods of the current `mesh`, by mutual TLS with these files if there are any."""
        self._mesh, self._tls = mesh, tls
        self._asking = asyncio.Lock()
        self._parallel = asyncio.Semaphore(_PARALLEL_CALLS)
        self._latest = release_pb2.GetServingReleaseResponse()
        self._reused_until = float("-inf")

    async def GetServingRelease(  # noqa: N802
        self, _: release_pb2.GetServingReleaseRequest, _context: Any
    ) -> release_pb2.GetServingReleaseResponse:
        """Return the release that all pods serve; without its id while they differ.

        `loading` has a release that a pod loads.
        """
        clock = asyncio.get_running_loop().time
        async with self._asking:
            if clock() >= self._reused_until:
                self._latest = await self._ask_all()
                self._reused_until = clock() + _REUSE_SECONDS
            return self._latest

    async def _ask_all(self) -> release_pb2.GetServingReleaseResponse:
        mesh = self._mesh()
        pods = [(service, pod) for service in INNER for pod in mesh.of(Pool(service))]
        responses = await asyncio.gather(*(self._ask(*pod) for pod in pods))
        # A pod that can't be connected to takes no calls, and loads the newest release when it
        # starts. So it delays no gateway.
        found = [(pod[0], each) for pod, each in zip(pods, responses, strict=True) if each]
        served = {each.release_id for _, each in found}
        summary = release_pb2.GetServingReleaseResponse(
            state=release_pb2.RELEASE_STATE_LOADING, channel="production", pod="all"
        )
        if len(served) == 1 and {service for service, _ in found} == {*INNER}:
            summary.release_id = served.pop()
        if summary.release_id:
            summary.state = release_pb2.RELEASE_STATE_SERVING
        loading = Counter(each.loading.release_id for _, each in found if each.HasField("loading"))
        if loading:
            summary.loading.release_id = loading.most_common(1)[0][0]
        return summary

    async def _ask(
        self, service: Service, pod: Endpoint
    ) -> release_pb2.GetServingReleaseResponse | None:
        """Return a pod's response, an empty one if it has none; None if it can't be reached."""
        async with self._parallel:
            try:
                async with open_channel(str(pod), self._tls, service) as channel:
                    stub = release_pb2_grpc.ReleaseServiceStub(channel)
                    request = release_pb2.GetServingReleaseRequest()
                    response: release_pb2.GetServingReleaseResponse | None
                    response = await stub.GetServingRelease(request, timeout=_POD_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    return None
                response = None
            except VireoError as error:
                log.warning("pods can't be asked for their release", reason=str(error))
                response = None
        # gRPC has None for an invalid response.
        return response or release_pb2.GetServingReleaseResponse()


def add_release_services(
    server: RpcServer, watch: ChannelWatch, mesh: Callable[[], Mesh], tls: TlsFiles | None
) -> None:
    """Add ChannelService and ReleaseService to the control plane's server."""
    add_channels = channel_pb2_grpc.add_ChannelServiceServicer_to_server
    server.add(NAME, partial(add_channels, watch))
    add_releases = release_pb2_grpc.add_ReleaseServiceServicer_to_server
    server.add(RELEASES_NAME, partial(add_releases, PodReleases(mesh, tls)))


async def follow_backups(bucket: Bucket) -> None:
    """Export when the last backup began until cancelled; an unreadable marker changes nothing.

    Without any it is 0 if backups are set up, so that the alert fires.
    """
    none = 0.0 if BackupSettings.named() else math.nan
    while True:
        try:
            found = await asyncio.to_thread(bucket.get, MARKER, 64)
            BACKUP_BEGAN.set(
                datetime.fromisoformat(found[0].decode()).timestamp() if found else none
            )
        except (VireoError, ValueError) as error:
            log.warning("the age of the last backup isn't known", reason=str(error))
        await asyncio.sleep(_BACKUP_POLL_SECONDS)
