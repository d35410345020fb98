"""What a site's own code asks of the edge: slates, and to record what viewers do."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

import grpc
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from vireo.server.errors import VireoError
from vireo.v1 import (
    catalog_pb2,
    catalog_pb2_grpc,
    event_pb2,
    event_pb2_grpc,
    recommendation_pb2,
    recommendation_pb2_grpc,
)

_CALL_SECONDS = 10.0
_PAUSE = 0.1
"""Seconds before a call is repeated."""
_REPEATED = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
_RETRY_INFO = f"/{RetryInfo.DESCRIPTOR.full_name}"
KINDS = (
    event_pb2.EVENT_KIND_PLAY,
    event_pb2.EVENT_KIND_PLAY,
    event_pb2.EVENT_KIND_FINISH,
    event_pb2.EVENT_KIND_LIKE,
    event_pb2.EVENT_KIND_HIDE,
    event_pb2.EVENT_KIND_IMPRESSION,
)
"""Kinds of events to draw from."""
_PAST_SECONDS = 6 * 86_400.0
"""Seconds back to which the times of events go: they come in any order."""
_AGAIN = 0.1
"""Share of the batches that are sent once more, in another order: other messages of the log."""

Answer = TypeVar("Answer")


class RefusedError(VireoError):
    """A call that isn't repeated: it would fail again, or has failed for too long."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        """Take over what the server said."""
        super().__init__(f"{error.code().name}: {error.details()}")
        self.code = error.code()


@dataclass(frozen=True)
class Refusal:
    """A call that failed."""

    at: float
    """When it left, `time.monotonic` seconds."""
    seconds: float
    """Until it failed."""
    status: str
    """For example "UNAVAILABLE"."""
    says_when: bool
    """Whether it says when to try again."""


class Site:
    """Calls that are repeated until they succeed, as they may be: all of them are idempotent."""

    def __init__(self, channel: grpc.aio.Channel, patience: float) -> None:
        """Hold a connection to the edge; `patience` is how long a call is repeated, in seconds."""
        self._patience = patience
        # The stubs of asyncio are of another type than the stubs' file declares.
        self._recommend: Any = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        self._events: Any = event_pb2_grpc.EventServiceStub(channel)
        self._catalog: Any = catalog_pb2_grpc.CatalogServiceStub(channel)
        self.refusals: list[Refusal] = []
        """Calls that failed and were repeated."""

    async def slate(self, viewer: str, size: int) -> recommendation_pb2.RecommendResponse:
        """Return a viewer's slate."""
        return await self.recommend(
            recommendation_pb2.RecommendRequest(viewer_id=viewer, page_size=size)
        )

    async def recommend(
        self, request: recommendation_pb2.RecommendRequest
    ) -> recommendation_pb2.RecommendResponse:
        """Return the slate of a request; raise RefusedError if the server refuses it."""
        answer: recommendation_pb2.RecommendResponse = await self._answered(
            lambda: self._recommend.Recommend(request, timeout=_CALL_SECONDS)
        )
        return answer

    async def record(self, events: Sequence[event_pb2.Event]) -> None:
        """Return once events are acknowledged."""
        request = event_pb2.RecordEventsRequest(events=events)
        await self._answered(lambda: self._events.RecordEvents(request, timeout=_CALL_SECONDS))

    async def upsert(self, videos: Sequence[catalog_pb2.Video]) -> None:
        """Return once videos are acknowledged."""
        request = catalog_pb2.UpsertVideosRequest(videos=videos)
        await self._answered(lambda: self._catalog.UpsertVideos(request, timeout=_CALL_SECONDS))

    async def remove(self, videos: Sequence[str]) -> None:
        """Return once removals are acknowledged."""
        request = catalog_pb2.RemoveVideosRequest(video_ids=videos)
        await self._answered(lambda: self._catalog.RemoveVideos(request, timeout=_CALL_SECONDS))

    async def _answered(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        until = time.monotonic() + self._patience
        while True:
            at = time.monotonic()
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                took = time.monotonic() - at
                refusal = Refusal(at, took, error.code().name, _says_when(error))
                if error.code() not in _REPEATED or time.monotonic() > until:
                    raise RefusedError(error) from error
            self.refusals.append(refusal)
            await asyncio.sleep(_PAUSE)


@asynccontextmanager
async def opened_site(target: str, patience: float) -> AsyncIterator[Site]:
    """Yield a site that calls the edge at host:port by a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(target, options) as channel:
        yield Site(channel, patience)


class Recorder:
    """Writers of batches of events, each repeated as it was until it is acknowledged.

    Use it as a context: at its end all are acknowledged, or it raises.
    """

    def __init__(
        self,
        target: str,
        videos: Sequence[str],
        rate: float,
        patience: float,
        *,
        viewers: int = 200,
        size: int = 20,
        writers: int = 8,
        kinds: Sequence[event_pb2.EventKind.ValueType] = KINDS,
        past: float = _PAST_SECONDS,
        again: float = _AGAIN,
    ) -> None:
        """Prepare it.

        Args:
            target: host:port of the edge.
            videos: ids of videos that the events are of.
            rate: events a second; as many as the edge takes if infinite.
            patience: maximum seconds for which a batch is repeated.
            viewers: number of viewers, of whom nothing else is known.
            size: events in a batch.
            writers: batches on their way at a time.
            kinds: of the events.
            past: seconds back to which their times go.
            again: share of the batches that are sent twice.
        """
        self.acknowledged: set[str] = set()
        """Ids of events."""
        self.refusals: list[Refusal] = []
        self.last_left = -math.inf
        """When the last call left that was acknowledged, `time.monotonic` seconds."""
        self.last: deque[Sequence[event_pb2.Event]] = deque(maxlen=5)
        """The last batches that were acknowledged."""
        self._prefix = f"recorded-{time.time_ns()}"
        self.viewers = [f"{self._prefix}-{number}" for number in range(viewers)]
        self._target, self._videos, self._patience = target, videos, patience
        self._pause, self._size, self._writers = writers * size / rate, size, writers
        self._kinds, self._past, self._again = kinds, past, again
        self._random = random.Random(0)  # noqa: S311
        self._numbers = count()
        self._stopping = asyncio.Event()

    async def __aenter__(self) -> Recorder:
        """Begin; `running` ends early if events were refused for too long."""
        self.running = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End, once all that has been sent is acknowledged; raise VireoError if it isn't."""
        self._stopping.set()
        await self.running

    async def _run(self) -> None:
        async with opened_site(self._target, self._patience) as site:
            self.refusals = site.refusals
            try:
                async with asyncio.TaskGroup() as writers:
                    for number in range(self._writers):
                        writers.create_task(self._write(site, number / self._writers * self._pause))
            except ExceptionGroup as failed:
                refused, other = failed.split(VireoError)
                if other is not None or refused is None:
                    raise
                raise refused.exceptions[0] from failed

    async def _write(self, site: Site, wait: float) -> None:
        while not await self._stopped(wait):
            begun = time.monotonic()
            batch = [self._event() for _ in range(self._size)]
            await self._record(site, batch)
            if self._random.random() < self._again:
                await self._record(site, self._random.sample(batch, len(batch)))
            wait = max(0.0, begun + self._pause - time.monotonic())

    async def _record(self, site: Site, batch: Sequence[event_pb2.Event]) -> None:
        at = time.monotonic()
        await site.record(batch)
        self.acknowledged |= {each.event_id for each in batch}
        self.last_left = max(self.last_left, at)
        self.last.append(batch)

    async def _stopped(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._stopping.wait()
        except TimeoutError:
            return False

    def _event(self) -> event_pb2.Event:
        choose = self._random
        made = event(
            f"{self._prefix}-{next(self._numbers)}",
            choose.choice(self.viewers),
            choose.choice(self._kinds),
            choose.choice(self._videos),
            time.time() - choose.random() * self._past,
        )
        if made.kind == event_pb2.EVENT_KIND_PLAY:
            made.watched_fraction = choose.random()
        return made


def event(
    event_id: str,
    viewer: str,
    kind: event_pb2.EventKind.ValueType,
    video: str,
    at: float | None = None,
) -> event_pb2.Event:
    """Return an event; of a time in Unix seconds if it isn't now."""
    made = event_pb2.Event(event_id=event_id, viewer_id=viewer, kind=kind, video_id=video)
    if at is not None:
        made.time.FromMicroseconds(int(at * 1e6))
    if kind == event_pb2.EVENT_KIND_PLAY:
        made.watched_fraction = 1.0
    return made


def ids(response: recommendation_pb2.RecommendResponse) -> list[str]:
    """Return the videos of a slate, best first."""
    return [item.video_id for item in response.items]


async def for_each(
    target: str,
    patience: float,
    items: Iterable[Answer],
    do: Callable[[Site, Answer], Awaitable[None]],
    at_a_time: int,
) -> None:
    """Do something by a site for each item, for some at a time."""
    remaining = iter(items)

    async def some(site: Site) -> None:
        for item in remaining:
            await do(site, item)

    async with opened_site(target, patience) as site, asyncio.TaskGroup() as tasks:
        for _ in range(at_a_time):
            tasks.create_task(some(site))


def _says_when(error: grpc.aio.AioRpcError) -> bool:
    """Return whether an error has google.rpc.RetryInfo."""
    metadata = dict(error.trailing_metadata() or ())
    details = metadata.get("grpc-status-details-bin", b"")
    status = Status.FromString(details if isinstance(details, bytes) else details.encode())
    return any(each.type_url.endswith(_RETRY_INFO) for each in status.details)
