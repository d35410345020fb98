"""The canary's share of the viewers, read from the release channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog

from server.control.attempts import Attempts, follow
from server.releases.channels import Channel

log = structlog.get_logger()

CHANNEL = "canary"


class Channels(Protocol):
    """Interface of the release store for reading channels."""

    def read_channel(self, name: str) -> Channel | None:
        """Return the channel, or None if it was never set."""
        ...


async def follow_share(
    store: Channels, poll_seconds: float, changed: Callable[[float], None], attempts: Attempts
) -> None:
    """Call `changed` with the current share, 0 to 1, and on each change, until cancelled.

    While the channel can't be read the last known share stays in use, or 0 if there is none.
    """

    def read() -> float:
        channel = store.read_channel(CHANNEL)
        return channel.pointer.share if channel else 0.0

    def publish(share: float) -> None:
        changed(share)
        log.info("canary share", share=share)

    await follow(attempts, read, publish, lambda: attempts.pause(poll_seconds), fallback=0.0)
