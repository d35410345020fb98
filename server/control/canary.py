"""The canary's share of the viewers, read from the release channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import structlog

from vireo.server.control.attempts import Attempts, follow
from vireo.server.releases.channels import Channel

log = structlog.get_logger()

CHANNEL = "canary"
_UNUSED_FACTOR = 60
"""How many times longer the interval of reads is while no viewer could go to the canary."""


class Channels(Protocol):
    """Interface of the release store for reading channels."""

    def read_channel(self, name: str) -> Channel | None:
        """Return the channel, or None if it was never set."""
        ...


async def follow_share(
    store: Channels,
    poll_seconds: float,
    changed: Callable[[float], None],
    attempts: Attempts,
    used: asyncio.Event,
) -> None:
    """Call `changed` with the current share, 0 to 1, and on each change, until cancelled.

    While the channel can't be read the last known share stays in use, or 0 if there is none.

    Args:
        store: has the channel.
        poll_seconds: interval of reads while the share is used.
        changed: called with the share.
        attempts: records the outcomes.
        used: set while canary pods serve. Otherwise reads are rare, until it is set.
    """

    def read() -> float:
        channel = store.read_channel(CHANNEL)
        return channel.pointer.share if channel else 0.0

    def publish(share: float) -> None:
        changed(share)
        log.info("canary share", share=share)

    async def pause() -> None:
        if used.is_set():
            await asyncio.sleep(attempts.pause(poll_seconds))
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(attempts.pause(poll_seconds * _UNUSED_FACTOR)):
                await used.wait()

    await follow(attempts, read, publish, pause, fallback=0.0)
