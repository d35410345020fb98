"""The canary's share of the viewers, as the release channel says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from server.releases.channels import Channel
from server.releases.store_errors import StoreError

log = structlog.get_logger()

CHANNEL = "canary"


class Channels(Protocol):
    """Where channels are read: the release store."""

    def read_channel(self, name: str) -> Channel | None:
        """The channel, or None where it was never set."""
        ...


async def follow_share(
    store: Channels, poll_seconds: float, changed: Callable[[float], None]
) -> None:
    """Calls `changed` with the share, 0 to 1, at first and on each change, until cancelled.

    While S3 can't be asked the last known share stays; where there is none yet, it is 0.
    """
    known: float | None = None
    reported = ""
    while True:
        try:
            channel = await asyncio.to_thread(store.read_channel, CHANNEL)
            share = channel.pointer.share if channel else 0.0
            reported = ""
            if share != known:
                log.info("canary share", share=share, before=known)
                known = share
                changed(share)
        except StoreError as error:
            # Declared policy: without S3 the mesh stays as it is.
            if str(error) != reported:
                reported = str(error)
                log.warning("canary share not read", reason=reported, kept=known or 0.0)
            if known is None:
                known = 0.0
                changed(known)
        await asyncio.sleep(poll_seconds)
