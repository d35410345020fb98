"""Appends what callers record to the log, some messages at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from itertools import islice
from typing import NamedTuple

import grpc
from prometheus_client import Histogram

from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import LogAwayError, Stream
from vireo.server.rpc.errors import RpcError, unavailable
from vireo.server.rpc.spans import current_traceparent, span

APPEND_SECONDS = Histogram(
    "vireo_log_append_seconds",
    "Seconds until a message of this process was in the log.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2),
)
_MAX_APPENDS = 256
"""Maximum messages of a service that are being appended."""
_APPENDS_OF_A_CALL = 64
"""Maximum messages of one call that are begun at once: they take some 4 ms."""
_RETRY = timedelta(seconds=1)


class Appended(NamedTuple):
    """A message to append: the arguments of `JetStreamLog.append`."""

    stream: Stream
    key: str
    data: bytes
    dedup_id: str = ""


class Appender:
    """The log, as one service writes to it. Use it from one event loop."""

    def __init__(self, log: JetStreamLog | None) -> None:
        """Append to a log; None if the settings name none."""
        self._log = log
        self._free = asyncio.Semaphore(_MAX_APPENDS)

    async def append(self, messages: Iterable[Appended]) -> None:
        """Append messages; return once all are in the log.

        Raises:
            RpcError: UNAVAILABLE: some may be in the log, and some not, since it is away.
                UNIMPLEMENTED: there is no log.
        """
        if (log := self._log) is None:
            raise RpcError(
                grpc.StatusCode.UNIMPLEMENTED,
                "this gateway has no log to record in; its operator sets VIREO_NATS_URL",
            )
        left = iter(messages)
        while some := [*islice(left, _APPENDS_OF_A_CALL)]:
            outcomes = await asyncio.gather(
                *(self._append(log, each) for each in some), return_exceptions=True
            )
            for outcome in outcomes:
                if isinstance(outcome, LogAwayError):
                    raise unavailable(f"{outcome}; try again", _RETRY) from outcome
                if isinstance(outcome, BaseException):
                    raise outcome

    async def _append(self, log: JetStreamLog, message: Appended) -> None:
        async with self._free:
            with APPEND_SECONDS.time(), span(f"append to {message.stream.name}", "producer"):
                await log.append(*message, traceparent=current_traceparent())
