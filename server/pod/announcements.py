"""Long-polls the control plane for changes of a channel, instead of polling S3."""

from __future__ import annotations

import asyncio
import math
import random

import grpc.aio
import structlog

from vireo.server.rpc.tls import TlsFiles, lasting_channel
from vireo.v1.channel_pb2 import AwaitReleaseRequest, AwaitReleaseResponse
from vireo.v1.channel_pb2_grpc import ChannelServiceStub

log = structlog.get_logger()

_WAIT_SECONDS = 10.0
"""Maximum seconds for which the control plane holds a call while nothing changes. Calls of all pods
on a machine end at the same multiple of them, so that a control plane wakes up once for all."""
_SLACK_SECONDS = 1.0
"""Further seconds until a call fails: a control plane that hangs is trusted no longer than both."""
_MIN_FIRST_SECONDS = 0.5
"""Minimum deadline of the first call, which may have to connect."""
_READ_SECONDS = 60.0
"""Seconds after which the channel is read anyway, whatever the control plane says."""
_SPREAD_SECONDS = 0.1
"""Maximum delay of a read after a change is announced."""
_CHANNEL_OPTIONS = (
    ("grpc.http2.bdp_probe", 0),  # see server/rpc/server.py
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 5000),
    # A host that vanishes leaves a connection on which calls would wait for minutes. Our servers
    # close connections that ping more often than every 10 s.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # else a minute, whatever the timeout above is
)


class Announcements:
    """The control plane's announcements of one channel."""

    def __init__(self, target: str, tls: TlsFiles | None, channel: str) -> None:
        """Open a connection to the control plane.

        Args:
            target: host:port of the control plane.
            tls: this process's files for mutual TLS; None for a plain connection.
            channel: the channel to follow.

        Raises:
            VireoError: a TLS file can't be read.
        """
        self._stub = ChannelServiceStub(lasting_channel(target, tls, "control", _CHANNEL_OPTIONS))
        self._channel = channel
        self._connected: bool | None = None
        """Whether the last call succeeded; None before the first."""

    async def wait(self, release_id: str, poll_seconds: float) -> None:
        """Return when the channel, which named `release_id`, is to be read again.

        That is as soon as the control plane says that it names another; after `poll_seconds` while
        the control plane doesn't answer.
        """
        loop = asyncio.get_running_loop()
        begun, still = loop.time(), True
        while still and loop.time() < begun + _READ_SECONDS:
            asked, wait, slack = loop.time(), 0.0, max(poll_seconds, _MIN_FIRST_SECONDS)
            # It must answer at once first: one that hangs hardly delays the poll.
            if self._connected:
                # A moment after the multiple: rounded down, a call of no length would follow.
                wait, slack = _WAIT_SECONDS - asked % _WAIT_SECONDS + 0.001, _SLACK_SECONDS
            still = await self._still_names(release_id, wait, slack)
            if still and loop.time() - asked < wait / 2:  # it doesn't hold calls
                await asyncio.sleep(poll_seconds)
        # All pods have heard of the change, or have lost the control plane, at this moment: they
        # must not read S3 at the same moments.
        spread = random.uniform(0.0, _SPREAD_SECONDS if self._connected else poll_seconds)  # noqa: S311
        await asyncio.sleep(max(spread, begun + poll_seconds - loop.time()))

    async def _still_names(self, release_id: str, wait: float, slack: float) -> bool:
        """Return whether the channel names a release, by the control plane, for `wait` seconds."""
        request = AwaitReleaseRequest(
            channel=self._channel,
            known_release_id=release_id,
            max_wait_milliseconds=math.ceil(wait * 1000),
        )
        try:
            response: AwaitReleaseResponse | None = await self._stub.AwaitRelease(
                request, timeout=wait + slack
            )
        except grpc.aio.AioRpcError as error:
            # Declared policy: without the control plane a pod polls the channel by itself.
            self._note(connected=False, reason=f"{error.code().name}: {error.details()}")
            return False
        if response is None:  # gRPC's result for a response that can't be parsed
            self._note(connected=False, reason="the response isn't an AwaitReleaseResponse")
            return False
        self._note(connected=True)
        return bool(response.release_id == release_id)

    def _note(self, *, connected: bool, reason: str = "") -> None:
        """Log when announcements begin and end, or never began."""
        if connected == self._connected:
            return
        self._connected = connected
        if connected:
            log.info("the control plane announces changes of the channel", channel=self._channel)
        else:
            log.warning("no announcements; polling the channel", reason=reason)
