"""EventService: checks batches of events, and records them in the log by partition."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from functools import partial

import grpc
import xxhash
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from prometheus_client import Counter

from vireo.server.event_log.jetstream import EVENT_KINDS, JetStreamLog
from vireo.server.event_log.log import EVENTS, partition_of
from vireo.server.gateway import catalog
from vireo.server.gateway.appender import Appended, Appender, LogRoom
from vireo.server.gateway.settings import GatewaySettings
from vireo.server.recommend.catalogue.overlay import Takedowns
from vireo.server.rpc.admission import Admission, Slots
from vireo.server.rpc.caller import caller_of
from vireo.server.rpc.errors import RpcError, ShedError
from vireo.server.rpc.guard import MAX_RPCS, ServiceLimits, Work
from vireo.server.rpc.reading import Context
from vireo.server.rpc.server import RpcServer
from vireo.server.rpc.streams import STREAM_RETRY, Places
from vireo.server.rpc.validation import Rules
from vireo.v1 import event_pb2 as pb
from vireo.v1.catalog_pb2_grpc import add_CatalogServiceServicer_to_server
from vireo.v1.event_pb2_grpc import EventServiceServicer, add_EventServiceServicer_to_server
from vireo.v1.log_pb2 import RecordedEvents

NAME = pb.DESCRIPTOR.services_by_name["EventService"].full_name

RECORDED = Counter("vireo_events_recorded", "Events that were put into the log, by kind.", ["kind"])
REFUSED = Counter(
    "vireo_events_refused",
    "Events that were refused: their caller's clock is off (`future`, `past`), they are `invalid` "
    "in another way that the protos' rules don't cover, the log is `full` as far as its caller's "
    "share goes, or it was `away`.",
    ["reason"],
)
MAX_CALLS = 32
"""Maximum calls that are worked on at a time, and that wait, of those that record events and of
those that change the catalogue."""
MAX_STREAMS = 50
"""Maximum concurrent streams of events."""
MAX_FUTURE_SECONDS, MAX_PAST_SECONDS = 600, 7 * 86_400
"""Maximum seconds by which an event may lie in the future or past: a caller's clock may be off."""
_MAX_SECONDS = 10.0
"""Maximum seconds for which a call that waits for the log keeps its slot; the edge ends it then."""
_MAX_MESSAGE_BYTES = 512 << 10
"""Maximum bytes of a message in the log: NATS' own limit is 1 MiB."""
_NANOS = 1_000_000_000
_REFUSALS = {grpc.StatusCode.UNAVAILABLE: "away", grpc.StatusCode.RESOURCE_EXHAUSTED: "full"}
_HIDES = (pb.EVENT_KIND_HIDE, pb.EVENT_KIND_NOT_INTERESTED)
_CALL_SECONDS, _EVENT_SECONDS = 2e-4, 4e-5
"""Cost of a call, and of each of its events: half of it here, the rest in the log and consumers."""

for _reason in ("future", "past", "invalid", "full", "away"):
    REFUSED.labels(_reason)
for _kind in EVENT_KINDS.values():
    if _kind != "unspecified":  # so that each is exported as 0 before it happens
        RECORDED.labels(_kind)


class EventServicer(EventServiceServicer):
    """Records events. Use it from one event loop."""

    def __init__(self, appender: Appender, partitions: int) -> None:
        """Record by `appender`, in so many partitions of the log."""
        self._appender, self._partitions = appender, partitions
        self._streams = Places(MAX_STREAMS, STREAM_RETRY)

    async def RecordEvents(  # noqa: N802
        self, request: pb.RecordEventsRequest, context: Context
    ) -> pb.RecordEventsResponse:
        """Record a batch of events."""
        await self._record(request.events, caller_of(context))
        return pb.RecordEventsResponse(recorded=len(request.events))

    async def StreamEvents(  # noqa: N802
        self, requests: AsyncIterator[pb.StreamEventsRequest], context: Context
    ) -> pb.StreamEventsResponse:
        """Record batches until the stream ends."""
        recorded = 0
        try:
            caller = caller_of(context)
            async with self._streams.place(caller):
                async for request in requests:
                    await self._record(request.events, caller)
                    recorded += len(request.events)
        except RpcError as error:
            if isinstance(error, ShedError) and not recorded:
                raise
            raise _ended(error, recorded) from error
        return pb.StreamEventsResponse(recorded=recorded)

    def cost(self, request: Message) -> float:
        """Return what a request costs, in seconds."""
        assert isinstance(request, pb.RecordEventsRequest | pb.StreamEventsRequest)
        return _CALL_SECONDS + len(request.events) * _EVENT_SECONDS

    def violations(self, request: Message) -> list[tuple[str, str]]:
        """Return what the protos' rules can't say of a request: the field, what is wrong with it.

        It counts them, too.
        """
        assert isinstance(request, pb.RecordEventsRequest | pb.StreamEventsRequest)
        now = time.time_ns()
        found = list(problems(request.events, now))
        for reason, count in Tally(reason for _, _, reason in found).items():
            REFUSED.labels(reason).inc(count)
        return [(field, description) for field, description, _ in found]

    async def _record(self, events: Sequence[pb.Event], caller: str) -> None:
        """Put a caller's valid events into the log.

        Raises:
            RpcError: UNAVAILABLE, and then some may be in the log; RESOURCE_EXHAUSTED, since the
                caller has taken its share of it; UNIMPLEMENTED.
        """
        distinct = {(event.viewer_id, event.event_id): event for event in events}.values()
        hides = all(event.kind in _HIDES for event in distinct)
        appended = messages(distinct, self._partitions, time.time_ns())
        try:
            await self._appender.append(appended, caller, hides=hides)
        except RpcError as error:
            if reason := _REFUSALS.get(error.code):
                REFUSED.labels(reason).inc(len(distinct))
            raise
        for kind, count in Tally(event.kind for event in distinct).items():
            RECORDED.labels(EVENT_KINDS[kind]).inc(count)


def problems(events: Sequence[pb.Event], now: int) -> Iterator[tuple[str, str, str]]:
    """Yield what the protos' rules can't say: the field, what is wrong with it, and the reason.

    Args:
        events: the events; they may violate the protos' rules.
        now: nanoseconds since the epoch.
    """
    seconds = now / _NANOS
    earliest, latest = seconds - MAX_PAST_SECONDS, seconds + MAX_FUTURE_SECONDS
    for index, event in enumerate(events):
        kind = event.kind
        if kind == pb.EVENT_KIND_FOLLOW:
            if not event.creator:
                yield f"events[{index}].creator", "is required for a FOLLOW", "invalid"
        elif not event.video_id:
            yield f"events[{index}].video_id", "is required unless it is a FOLLOW", "invalid"
        if kind != pb.EVENT_KIND_PLAY:
            for field in ("watched_seconds", "watched_fraction"):
                if event.HasField(field):
                    yield f"events[{index}].{field}", "is for a PLAY only", "invalid"
        if not event.HasField("time"):
            continue
        at = event.time
        if not 0 <= at.nanos < _NANOS:
            yield f"events[{index}].time", "must have nanos from 0 to 999,999,999", "invalid"
        elif at.seconds < earliest:
            description = f"must be at most {MAX_PAST_SECONDS:,.0f} s in the past"
            yield f"events[{index}].time", description, "past"
        elif at.seconds > latest:
            description = f"must be at most {MAX_FUTURE_SECONDS:,.0f} s in the future"
            yield f"events[{index}].time", description, "future"


def messages(events: Iterable[pb.Event], partitions: int, now: int) -> Iterator[Appended]:
    """Yield the log's messages for events; those without a time get it.

    Args:
        events: valid events.
        partitions: number of the log's partitions.
        now: nanoseconds since the epoch.
    """
    split: dict[int, list[pb.Event]] = {}
    for event in events:
        split.setdefault(partition_of(event.viewer_id, partitions), []).append(event)
    received_at = Timestamp()
    received_at.FromNanoseconds(now)
    for partition, some in split.items():
        for message in _bounded(some):
            data = message.SerializeToString(deterministic=True)
            # Of what the caller sent, so that a repeated call has the same id.
            dedup_id = xxhash.xxh3_128_hexdigest(data)
            message.received_at.CopyFrom(received_at)
            for event in message.events:
                if not event.HasField("time"):
                    event.time.CopyFrom(received_at)
            yield Appended(EVENTS, str(partition), message.SerializeToString(), dedup_id)


def _bounded(events: list[pb.Event]) -> Iterator[RecordedEvents]:
    """Yield messages of at most _MAX_MESSAGE_BYTES with these events."""
    message = RecordedEvents(events=events)
    if message.ByteSize() <= _MAX_MESSAGE_BYTES or len(events) == 1:
        yield message
        return
    half = len(events) // 2
    yield from _bounded(events[:half])
    yield from _bounded(events[half:])


def _ended(error: RpcError, recorded: int) -> RpcError:
    """Return the error of a stream, which says how many of its events are in the log."""
    info = error_details_pb2.ErrorInfo(
        reason="STREAM_ENDED", domain="vireo.v1", metadata={"recorded": str(recorded)}
    )
    details: list[Message] = [*error.details, info]
    message = f"after {recorded} recorded events of the stream: {error.message}"
    return RpcError(error.code, message, details)


def add_recording(
    server: RpcServer,
    settings: GatewaySettings,
    log: JetStreamLog | None,
    room: LogRoom | None = None,
    takedowns: Takedowns | None = None,
) -> None:
    """Add EventService and CatalogService to a server; without a log they are UNIMPLEMENTED.

    Their calls are admitted apart from those for slates: one can't take the other's places. Nor
    can a caller have those of others, however long the log takes.
    `takedowns` are those that are followed.
    """
    recorder = EventServicer(Appender(log, room), settings.event_log.event_partitions)
    changer = catalog.CatalogServicer(Appender(log), takedowns)

    def limits(rules: Rules, work: Work) -> ServiceLimits:
        slots = Slots(MAX_CALLS, _MAX_SECONDS)
        return ServiceLimits(Admission(slots, MAX_RPCS), rules, work)

    server.add(
        NAME,
        partial(add_EventServiceServicer_to_server, recorder),
        limits=limits(recorder.violations, recorder.cost),
    )
    server.add(
        catalog.NAME,
        partial(add_CatalogServiceServicer_to_server, changer),
        limits=limits(catalog.violations, catalog.cost),
    )
