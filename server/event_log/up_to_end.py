"""Reading a stream up to the end that it has now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import cast

from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import Entries, LogAwayError, Stream
from vireo.server.event_log.position import BEGIN, Position

_SILENT_SECONDS = 30.0


async def up_to_end(
    event_log: JetStreamLog, stream: Stream, key: str = "", after: Position = BEGIN
) -> AsyncIterator[Entries]:
    """Yield the messages after a position up to the end as it is now; the last may be empty.

    A compacted stream is read until nothing is left: a message that is replaced meanwhile is
    found only beyond the end of before.

    Raises:
        LogAwayError: nothing comes for some time.
    """
    end = await event_log.end(stream, key)
    reading = cast("AsyncGenerator[Entries, None]", event_log.read(stream, key, after))
    async with aclosing(reading):
        while True:
            try:
                async with asyncio.timeout(_SILENT_SECONDS):
                    entries = await anext(reading)
            except TimeoutError as error:
                raise LogAwayError("the log doesn't answer any more; try again later") from error
            yield entries
            if not entries or (entries[-1].sequence >= end and not stream.compacted):
                return
