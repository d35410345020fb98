"""Whether the viewers' features lag behind the log, as the consumers of events tell."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from google.protobuf.message import DecodeError
from prometheus_client import Gauge

from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import PROGRESS, STATE, partition_of
from vireo.v1.log_pb2 import ConsumerProgress

log = structlog.get_logger()

MAX_SILENCE = 15.0
"""Seconds without a word of a consumer, who speaks every 5 s, after which its events count as not
applied. A consumer that restarts, or takes over, is back by then."""

BEHIND = Gauge(
    "vireo_features_behind",
    "Partitions whose events reach the viewers' features late, or whose consumer is silent.",
)


class Progress:
    """The progress of each partition's consumer. Use it from one event loop."""

    def __init__(
        self,
        log: JetStreamLog,
        partitions: int,
        max_lag: float,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Start with the benefit of the doubt: consumers have MAX_SILENCE to speak.

        Args:
            log: where the consumers tell.
            partitions: number of partitions.
            max_lag: seconds after which an event that isn't applied makes features late.
            clock: monotonic clock in seconds.
            wall: Unix time in seconds.
        """
        self._log, self._max_lag = log, max_lag
        self._clock, self._wall = clock, wall
        self._updated_at = [clock()] * partitions
        self._oldest: list[float | None] = [None] * partitions
        """When the oldest event that isn't applied was received, Unix seconds."""
        BEHIND.set_function(lambda: sum(map(self._is_behind, range(partitions))))

    async def run(self) -> None:
        """Read what consumers tell, until cancelled."""
        # What is trending need not come here, too; several keys would take a reader each.
        key = f"{PROGRESS}0" if len(self._updated_at) == 1 else ""
        async for entries in self._log.read(STATE, key):
            for entry in entries:
                if entry.key.startswith(PROGRESS):
                    self.update(entry.data)

    def update(self, data: bytes) -> None:
        """Apply a consumer's message; one that can't be read is logged, and no sign of life."""
        try:
            message = ConsumerProgress.FromString(data)
        except DecodeError as error:
            log.warning("a consumer's progress can't be read", reason=str(error))
            return
        if 0 <= message.partition < len(self._updated_at):
            self._updated_at[message.partition] = self._clock()
            oldest = message.oldest_pending
            late = message.HasField("oldest_pending")
            self._oldest[message.partition] = oldest.seconds + oldest.nanos / 1e9 if late else None

    def behind(self, viewer_id: str) -> bool:
        """Return whether a viewer's features may lack events that are recorded."""
        return self._is_behind(partition_of(viewer_id, len(self._updated_at)))

    def _is_behind(self, partition: int) -> bool:
        if self._clock() - self._updated_at[partition] > MAX_SILENCE:
            return True
        oldest = self._oldest[partition]
        return oldest is not None and self._wall() - oldest > self._max_lag
