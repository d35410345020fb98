"""Records slates in the log once they are answered, off the path of the answer.

What is recorded waits in memory, within a bound, until the log has it: beyond that slates are
dropped and counted. Slates of one moment become one message, since a message costs more than a
slate. Slates of batches aren't recorded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import structlog
import xxhash
from prometheus_client import Counter, Gauge

from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import (
    MAX_MESSAGE_BYTES,
    SLATES,
    LogAwayError,
    fingerprint_of,
    partition_of,
)
from vireo.server.gateway.pipeline import Made, applied_rules
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.candidate_pb2 import RetrieveCandidatesRequest
from vireo.v1.slate_pb2 import RecordedSlates, SlateRecord
from vireo.v1.viewer_pb2 import ViewerFeatures

log = structlog.get_logger()

RECORDED_CANDIDATES = 120
"""Maximum candidates of a slate whose scores are recorded, unless its page is larger."""
_MAX_BYTES = 64 << 20
"""Maximum bytes of slates that wait for the log: some 5,000."""
_JOIN_SECONDS, _JOIN_BYTES = 0.5, 1 << 19
"""Seconds for which slates wait for others of their partition, to be appended as one message, and
the bytes of it beyond which another one is begun."""
_FRAME_BYTES = 8
"""Maximum bytes that a message adds to each of its slates."""
_PARALLEL = 8
"""Messages that are appended at a time."""
_RETRY_SECONDS, _STOP_SECONDS = 0.5, 2.0
"""Seconds before the log is tried again, and for which a gateway that stops tries it."""
_SEED = 20_002
"""Makes the share of the viewers independent of their partitions and of the canary's buckets."""

RECORDED = Counter("vireo_slates_recorded", "Slates that this process has recorded in the log.")
DROPPED = Counter(
    "vireo_slates_dropped",
    "Slates to record that were dropped: full, too many waited for the log; large, one exceeds a "
    "message of the log; stopped, the log was away when the process stopped.",
    ["reason"],
)
for _reason in ("full", "large", "stopped"):  # so that each is exported as 0
    DROPPED.labels(_reason)
WAITING = Gauge("vireo_slates_waiting_bytes", "Bytes of slates that wait to be recorded.")


def in_share(viewer_id: str, share: float) -> bool:
    """Return whether a viewer is among the share that is recorded, 0 to 1: always the same ones."""
    return xxhash.xxh3_64_intdigest(viewer_id.encode(), seed=_SEED) < share * 2.0**64


@dataclass(frozen=True)
class _Message:
    key: str
    data: bytes
    slates: int
    size: int
    """Bytes of its slates."""

    @staticmethod
    def of(key: str, slates: list[bytes]) -> _Message:
        data = RecordedSlates(slates=slates).SerializeToString()
        return _Message(key, data, len(slates), sum(map(len, slates)))


class SlateLog:
    """Slates on their way into the log. Use it from one event loop."""

    def __init__(self, event_log: JetStreamLog, partitions: int, share: float) -> None:
        """Record nothing yet.

        Args:
            event_log: the log.
            partitions: number of its partitions.
            share: share of the viewers whose slates are recorded, 0 to 1: always the same ones.
        """
        self._log, self._partitions, self._share = event_log, partitions, share
        self._slates = list[tuple[str, bytes]]()
        """Those that are in no message yet, each with its partition."""
        self._messages = list[_Message]()
        """Those that the log may not have yet. They stay as they are: it knows them by content."""
        self._bytes = 0
        self._added = asyncio.Event()

    def candidates_to_record(self, viewer_id: str) -> int:
        """Return the number of candidates to record of a viewer's slate; 0 to record none."""
        return RECORDED_CANDIDATES if in_share(viewer_id, self._share) else 0

    def offer(self, made: Made, request: pb.RecommendRequest) -> None:
        """Record a slate soon, once it was sent; the caller's request may change then."""
        record = SlateRecord(request=request)
        record.answered_at.FromNanoseconds(time.time_ns())
        asyncio.get_running_loop().call_soon(self._add, record, made)

    def _add(self, record: SlateRecord, made: Made) -> None:
        data = complete(record, made).SerializeToString()
        if len(data) + _FRAME_BYTES > MAX_MESSAGE_BYTES:
            DROPPED.labels("large").inc()
        elif self._bytes + len(data) > _MAX_BYTES:
            DROPPED.labels("full").inc()
        else:
            key = str(partition_of(record.request.viewer_id, self._partitions))
            self._slates.append((key, data))
            self._count(len(data))
            self._added.set()

    async def run(self) -> None:
        """Append what was offered, until cancelled."""
        try:
            while True:
                await self._added.wait()
                await asyncio.sleep(_JOIN_SECONDS)
                self._added.clear()
                await self._append_all()
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(_STOP_SECONDS):
                    await self._append_all()
            DROPPED.labels("stopped").inc(
                sum(each.slates for each in self._messages) + len(self._slates)
            )

    async def _append_all(self) -> None:
        """Append what waits; what the log doesn't take waits on."""
        away = False
        while self._slates or self._messages:
            slates, self._slates = self._slates, []
            self._messages += _joined(slates)
            some = self._messages[:_PARALLEL]
            outcomes = await asyncio.gather(*(self._append(each) for each in some))
            left = list[_Message]()
            for message, stored in zip(some, outcomes, strict=True):
                if stored:
                    self._count(-message.size)
                    RECORDED.inc(message.slates)
                else:
                    left.append(message)
            self._messages[: len(some)] = left
            if left and not away:
                log.warning("slates wait for the log", bytes=self._bytes)
            if away := bool(left):
                await asyncio.sleep(_RETRY_SECONDS)

    async def _append(self, message: _Message) -> bool:
        """Append a message; return whether the log has it."""
        try:
            # The id keeps it from being stored again if the log's answer was lost.
            once = f"{fingerprint_of(message.data):016x}"
            await self._log.append(SLATES, message.key, message.data, once)
        except LogAwayError:
            return False
        return True

    def _count(self, size: int) -> None:
        self._bytes += size
        WAITING.set(self._bytes)


def _joined(slates: list[tuple[str, bytes]]) -> Iterator[_Message]:
    """Yield messages that have some slates, each of which has its partition, in their order."""
    partition = itemgetter(0)
    for key, group in groupby(sorted(slates, key=partition), partition):
        some, size = list[bytes](), 0
        for _, data in group:
            if some and size + len(data) > _JOIN_BYTES:
                yield _Message.of(key, some)
                some, size = [], 0
            some.append(data)
            size += len(data)
        yield _Message.of(key, some)


def complete(record: SlateRecord, made: Made) -> SlateRecord:
    """Add to a record what the slate was made from, of which nobody needs scores any more."""
    for name in ("page_token", "excluded_video_ids"):  # their keys are in the retrieval's request
        record.request.ClearField(name)
    record.shown_before = made.query.shown_before
    record_retrieval(record, made.request)
    record.slate.CopyFrom(made.slate)
    record.slate.ClearField("next_page_token")
    record.slate.ClearField("explanation")
    record.gateway_release_id = made.release.manifest.release_id
    record.left_out_keys.extend(made.left_out.keys())
    record.left_out_sources.extend(made.left_out.values())
    if made.candidates is not None:
        made.candidates.ClearField("scores")
        record.candidates = made.candidates.SerializeToString()
    if made.ranked is not None:
        record.ranking = made.ranked.record
    if made.query.rules is not None:
        record.rules.extend(applied_rules(made.query.rules, made))
    return record


def record_retrieval(record: SlateRecord, request: RetrieveCandidatesRequest) -> None:
    """Add to a record what was asked of retrieval."""
    record.retrieval.CopyFrom(request)
    viewer = record.retrieval.viewer
    kept = ViewerFeatures(asked_at=viewer.asked_at, context=viewer.context)
    viewer.ClearField("asked_at")
    viewer.ClearField("context")
    record.viewer_features = viewer.SerializeToString(deterministic=True)
    viewer.CopyFrom(kept)
