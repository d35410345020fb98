"""ChannelService: the control plane reads the channels that pods follow, and announces changes."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import grpc

from vireo.server.control.attempts import Attempts
from vireo.server.control.canary import Channels
from vireo.server.releases.fields import CHANNEL_NAME
from vireo.server.rpc.errors import RpcError, invalid_argument, unavailable
from vireo.server.rpc.server import RpcServer
from vireo.v1 import channel_pb2 as pb
from vireo.v1 import channel_pb2_grpc

NAME = pb.DESCRIPTOR.services_by_name["ChannelService"].full_name
MAX_CHANNELS = 16
"""Maximum channels that are read at a time."""
_FORGET_SECONDS = 30.0
"""A channel without a call for this long is no longer read."""
_STALE_SECONDS = 2.0
"""Age from which on a read no longer vouches for what the channel names."""
_RETRY_AFTER = timedelta(seconds=1)


@dataclass
class _Watched:
    """One channel; times are of the monotonic clock."""

    asked_at: float = field(default_factory=time.monotonic)
    read_at: float = float("-inf")
    release_id: str = ""
    reading: bool = False
    read: asyncio.Event = field(default_factory=asyncio.Event)
    """Set after each read, and then replaced."""
    failure: Exception | None = None
    """Error of the last read."""

    @property
    def readable(self) -> bool:
        """Whether the last read succeeded; false before the first."""
        return self.failure is None and self.read_at > float("-inf")


class ChannelWatch:
    """The release that each channel names, read for as long as calls ask for it.

    Use it from one event loop.
    """

    def __init__(self, channels: Channels, poll_seconds: float) -> None:
        """Start without channels; each one that is asked for is read every `poll_seconds`."""
        self.attempts = Attempts("channels")
        """Attempts to read channels; one fails if no channel can be read."""
        self._channels = channels
        self._poll_seconds = poll_seconds
        self._watched: dict[str, _Watched] = {}
        self._added = asyncio.Event()

    async def run(self) -> None:
        """Read the channels until cancelled; a new one at once.

        Each has a read of its own, so that one that takes long leaves the others fresh.
        """
        async with asyncio.TaskGroup() as group:
            while True:
                self._added.clear()
                self._forget()
                if not self._watched:
                    self.attempts.succeeded()
                for name, watched in self._watched.items():
                    if not watched.reading:
                        watched.reading = True
                        group.create_task(self._read_one(name, watched))
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.attempts.pause(self._poll_seconds)):
                        await self._added.wait()

    def release_id(self, name: str) -> str | None:
        """Return the release that a channel names, empty if none; None if that isn't known now.

        Raises:
            RpcError: RESOURCE_EXHAUSTED if this is one channel too many.
        """
        watched = self._watched.get(name)
        if watched is None:
            if len(self._watched) >= MAX_CHANNELS:
                raise RpcError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"{MAX_CHANNELS} other channels are followed already; read this one yourself",
                )
            watched = self._watched[name] = _Watched()
            self._added.set()
        watched.asked_at = now = time.monotonic()
        return watched.release_id if now - watched.read_at < _STALE_SECONDS else None

    async def next_read(self, name: str, seconds: float) -> None:
        """Return after the next read of a channel that was asked for, or once the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._watched[name].read.wait()

    def _forget(self) -> None:
        oldest = time.monotonic() - _FORGET_SECONDS
        self._watched = {
            name: watched for name, watched in self._watched.items() if watched.asked_at >= oldest
        }

    async def _read_one(self, name: str, watched: _Watched) -> None:
        try:
            channel = await asyncio.to_thread(self._channels.read_channel, name)
        except Exception as error:  # noqa: BLE001
            # Declared policy: pods poll a channel that can't be read here by themselves.
            watched.failure = error
        else:
            watched.failure = None
            watched.release_id = channel.release_id if channel else ""
            watched.read_at = time.monotonic()
        watched.reading = False
        self._note()
        watched.read.set()
        watched.read = asyncio.Event()

    def _note(self) -> None:
        """Record the outcome of the last read of each channel."""
        watched = self._watched.values()
        failures = [each.failure for each in watched if each.failure]
        if failures and not any(each.readable for each in watched):
            self.attempts.failed(failures[0])
        else:
            self.attempts.succeeded(frozenset(map(str, failures)))


class ChannelServicer(channel_pb2_grpc.ChannelServiceServicer):
    """Answers pods as soon as their channel changes."""

    def __init__(self, watch: ChannelWatch, server: RpcServer) -> None:
        """Answer by `watch`, while `server` serves."""
        self._watch, self._server = watch, server

    async def AwaitRelease(  # noqa: N802
        self, request: pb.AwaitReleaseRequest, _context: Any
    ) -> pb.AwaitReleaseResponse:
        """Return the release that a channel names, once it is another or the wait is over."""
        if not re.fullmatch(CHANNEL_NAME, request.channel):
            raise invalid_argument([("channel", f"{request.channel!r} can't be a channel")])
        loop = asyncio.get_running_loop()
        end = loop.time() + request.max_wait_milliseconds / 1000
        release_id = self._watch.release_id(request.channel)
        if release_id is None:  # a new one is read at once
            await self._watch.next_read(request.channel, _STALE_SECONDS)
            release_id = self._watch.release_id(request.channel)
        while release_id == request.known_release_id and loop.time() < end and self._server.serving:
            await self._watch.next_read(request.channel, end - loop.time())
            release_id = self._watch.release_id(request.channel)
        if release_id is None:
            raise unavailable(f"channel {request.channel} can't be read", _RETRY_AFTER)
        if not self._server.serving:
            raise unavailable("the control plane starts or shuts down", _RETRY_AFTER)
        return pb.AwaitReleaseResponse(release_id=release_id)


def add_channel_service(server: RpcServer, watch: ChannelWatch) -> None:
    """Add ChannelService to a server."""
    add = channel_pb2_grpc.add_ChannelServiceServicer_to_server
    server.add(NAME, partial(add, ChannelServicer(watch, server)))
