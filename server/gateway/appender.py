"""Append callers' records to the log until a caller has used its share of the log's bytes."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import NamedTuple

import grpc
import structlog
from google.rpc import error_details_pb2
from prometheus_client import Gauge, Histogram

from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import DEAD, EVENTS, LogAwayError, Stream
from vireo.server.rpc.caller import MAX_CALLERS
from vireo.server.rpc.errors import RpcError, unavailable
from vireo.server.rpc.spans import current_traceparent, span

log = structlog.get_logger()

APPEND_SECONDS = Histogram(
    "vireo_log_append_seconds",
    "Seconds until a message of this process was in the log.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2),
)
USED = Gauge(
    "vireo_log_used_ratio",
    "Share of a stream's maximum bytes that its messages have taken, as this gateway saw last.",
    ["stream"],
)
RESERVED_FOR_HIDES = 0.1
"""Share of the log that only hides may use."""
MAX_HIDES_OF_CALLER = RESERVED_FOR_HIDES / 16
"""Share of the log that one caller's hides may use after the caller has reached its own."""
_HALVINGS = 8
"""What a caller appended counts half after this part of the time for which events are kept."""
_LOOK_SECONDS = 5.0
_FULL_RETRY, _AWAY_RETRY = timedelta(seconds=60), timedelta(seconds=1)
_OVERHEAD = 150
"""Bytes that the log adds to a message, about: its subject, headers and id."""
_MAX_APPENDS = 256
"""Maximum messages of a service that are being appended."""
_APPENDS_OF_A_CALL = 64
"""Maximum messages of one call that are begun at once: they take some 4 ms."""


class Appended(NamedTuple):
    """A message to append: the arguments of `JetStreamLog.append`."""

    stream: Stream
    key: str
    data: bytes
    dedup_id: str = ""


class LogRoom:
    """What is free of stream EVENTS, and what callers appended lately. Use it from one event loop.

    A caller may append as long as that is less than what is free. So whoever floods the log finds
    an end while there is room for others: one caller at half of an empty log, n callers at n / (n +
    1). A gateway knows only what it appended itself since it started: several gateways leave
    less, and a restart lets a caller take half of what is free then. Hides count as all else does,
    so that they can't close the log to others either.
    """

    def __init__(
        self, event_log: JetStreamLog, retention: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Allow everything until `run` has looked.

        Args:
            event_log: the log.
            retention: seconds for which events are kept.
            clock: monotonic seconds.
        """
        self._log, self._half_life, self._clock = event_log, retention / _HALVINGS, clock
        self._used, self._max = 0, 0
        self._callers: OrderedDict[str, tuple[float, float, float]] = OrderedDict()
        """Bytes by caller, those of hides beyond its share, and when they were counted last."""

    async def run(self) -> None:
        """Look how full the log is, until cancelled."""
        while True:
            try:
                for stream in (EVENTS, DEAD):
                    used, max_bytes = await self._log.usage(stream)
                    if max_bytes:
                        USED.labels(stream.name).set(used / max_bytes)
                    if stream is EVENTS:
                        self.update_usage(used, max_bytes)
            except LogAwayError as error:  # then nothing can be appended either
                log.debug("how full the log is isn't known", reason=str(error))
            await asyncio.sleep(_LOOK_SECONDS)

    def update_usage(self, used: int, max_bytes: int) -> None:
        """Note how many bytes the log has, and may have; 0 if it has no maximum."""
        self._used, self._max = used, max_bytes

    def charge(self, caller: str, messages: Iterable[bytes], *, hides: bool) -> int:
        """Charge a caller with the messages that it appends; return their bytes.

        Args:
            caller: whose they are.
            messages: what is appended.
            hides: whether they are hides alone: some more of them are accepted, for which the last
                part of the log is kept.

        Raises:
            RpcError: RESOURCE_EXHAUSTED with RetryInfo: the caller has taken its share.
        """
        if not self._max:
            return 0
        now = self._clock()
        lately, beyond, at = self._callers.pop(caller, (0.0, 0.0, now))
        aged = 0.5 ** ((now - at) / self._half_life)
        lately, beyond = lately * aged, beyond * aged
        over = lately >= self._max * (1 - RESERVED_FOR_HIDES) - self._used
        more = hides and self._used < self._max and beyond < self._max * MAX_HIDES_OF_CALLER
        refused = over and not more
        size = 0 if refused else sum(len(each) + _OVERHEAD for each in messages)
        self._used += size
        self._callers[caller] = (lately + size, beyond + size * over, now)
        if len(self._callers) > MAX_CALLERS:
            self._callers.popitem(last=False)
        if refused:
            raise RpcError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the log is {self._used / self._max:.0%} full, and this caller has taken its "
                f"share of it; its last {RESERVED_FOR_HIDES:.0%} is for batches of HIDE and "
                "NOT_INTERESTED. Try again later; an operator can raise VIREO_EVENT_MAX_BYTES",
                [error_details_pb2.RetryInfo(retry_delay=_FULL_RETRY)],
            )
        return size

    def refund(self, caller: str, size: int, *, hides: bool) -> None:
        """Give a caller back bytes that the log didn't store."""
        lately, beyond, at = self._callers.get(caller, (0.0, 0.0, 0.0))
        self._used = max(0, self._used - size)
        if 0 < size <= lately:
            self._callers[caller] = (lately - size, max(0.0, beyond - size * hides), at)


class Appender:
    """The log, as one service writes to it. Use it from one event loop."""

    def __init__(self, log: JetStreamLog | None, room: LogRoom | None = None) -> None:
        """Append to a log, None if the settings name none, as long as callers have `room`."""
        self._log, self._room = log, room
        self._free = asyncio.Semaphore(_MAX_APPENDS)

    async def append(
        self, messages: Iterable[Appended], caller: str = "", *, hides: bool = False
    ) -> None:
        """Append messages of a caller; return once all are in the log. For `hides` see `LogRoom`.

        Raises:
            RpcError: UNAVAILABLE: some may be in the log, and some not, since it is away.
                RESOURCE_EXHAUSTED: the caller has taken its share. UNIMPLEMENTED: there is no log.
        """
        if (log := self._log) is None:
            raise RpcError(
                grpc.StatusCode.UNIMPLEMENTED,
                "this gateway has no log to record in; its operator sets VIREO_NATS_URL",
            )
        all_of_them, room, size = [*messages], self._room, 0
        if room is not None:
            size = room.charge(caller, [each.data for each in all_of_them], hides=hides)
        for begin in range(0, len(all_of_them), _APPENDS_OF_A_CALL):
            some = all_of_them[begin : begin + _APPENDS_OF_A_CALL]
            outcomes = await asyncio.gather(
                *(self._append(log, each) for each in some), return_exceptions=True
            )
            for outcome in outcomes:
                if isinstance(outcome, LogAwayError):
                    if room is not None:
                        room.refund(caller, size, hides=hides)
                    raise unavailable(f"{outcome}; try again", _AWAY_RETRY) from outcome
                if isinstance(outcome, BaseException):
                    raise outcome

    async def _append(self, log: JetStreamLog, message: Appended) -> None:
        async with self._free:
            with APPEND_SECONDS.time(), span(f"append to {message.stream.name}", "producer"):
                await log.append(*message, traceparent=current_traceparent())
