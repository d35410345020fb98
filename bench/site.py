"""What a site's own code asks of the edge: slates, and to record what viewers do."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import grpc
from google.protobuf.message import Message

from bench.load import for_each
from bench.stack import until
from vireo.server.errors import VireoError
from vireo.v1 import (
    catalog_pb2,
    catalog_pb2_grpc,
    event_pb2,
    event_pb2_grpc,
    recommendation_pb2,
    recommendation_pb2_grpc,
)
from vireo_client.errors import error_of

_CALL_SECONDS = 10.0
_PAUSE = 0.1
"""Seconds before a call is repeated."""
_REPEATED = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
_KINDS = (
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
_WRITERS = 8
"""Batches on their way at a time."""


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
    """Calls that are repeated until they succeed, as they may be: all of them are idempotent.

    Each raises VireoError if it would fail again, or has failed for longer than `patience` seconds.
    """

    def __init__(self, channel: grpc.aio.Channel, patience: float) -> None:
        """Hold a connection to the edge."""
        self._patience = patience
        # The stubs of asyncio are of another type than the stubs' file declares.
        self._recommend: Any = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        self._events: Any = event_pb2_grpc.EventServiceStub(channel)
        self._catalog: Any = catalog_pb2_grpc.CatalogServiceStub(channel)
        self.refusals: list[Refusal] = []
        """Calls that failed and were repeated."""

    async def slate(self, viewer: str, size: int) -> recommendation_pb2.RecommendResponse:
        """Return a viewer's slate."""
        request = recommendation_pb2.RecommendRequest(viewer_id=viewer, page_size=size)
        return await self.recommend(request)

    async def recommend(
        self, request: recommendation_pb2.RecommendRequest
    ) -> recommendation_pb2.RecommendResponse:
        """Return the slate of a request."""
        answer: recommendation_pb2.RecommendResponse
        answer = await self._answered(self._recommend.Recommend, request)
        return answer

    async def record(self, events: Sequence[event_pb2.Event]) -> None:
        """Return once events are acknowledged."""
        request = event_pb2.RecordEventsRequest(events=events)
        await self._answered(self._events.RecordEvents, request)

    async def upsert(self, videos: Sequence[catalog_pb2.Video]) -> None:
        """Return once videos are acknowledged."""
        request = catalog_pb2.UpsertVideosRequest(videos=videos)
        await self._answered(self._catalog.UpsertVideos, request)

    async def remove(self, videos: Sequence[str]) -> None:
        """Return once removals are acknowledged."""
        request = catalog_pb2.RemoveVideosRequest(video_ids=videos)
        await self._answered(self._catalog.RemoveVideos, request)

    async def _answered(self, method: Any, request: Message) -> Any:
        until = time.monotonic() + self._patience
        while True:
            at = time.monotonic()
            try:
                return await method(request, timeout=_CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _REPEATED or time.monotonic() > until:
                    raise VireoError(f"{error.code().name}: {error.details()}") from error
                after = getattr(error_of(error, ""), "retry_after", None)
                refusal = Refusal(at, time.monotonic() - at, error.code().name, after is not None)
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
    ) -> None:
        """Prepare it.

        Args:
            target: host:port of the edge.
            videos: ids of videos that the events are of.
            rate: events a second; as many as the edge takes if infinite.
            patience: maximum seconds for which a batch is repeated.
            viewers: number of viewers, of whom nothing else is known.
            size: events in a batch.
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
        self._pause, self._size = _WRITERS * size / rate, size
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
            waits = (number / _WRITERS * self._pause for number in range(_WRITERS))
            try:
                await for_each(waits, partial(self._write, site), _WRITERS)
            except* VireoError as refused:
                raise refused.exceptions[0] from None

    async def _write(self, site: Site, wait: float) -> None:
        while not await self._stopped(wait):
            begun = time.monotonic()
            batch = [self._event() for _ in range(self._size)]
            await self._record(site, batch)
            if self._random.random() < _AGAIN:
                await self._record(site, self._random.sample(batch, len(batch)))
            wait = max(0.0, begun + self._pause - time.monotonic())

    async def _record(self, site: Site, batch: Sequence[event_pb2.Event]) -> None:
        at = time.monotonic()
        await site.record(batch)
        self.acknowledged |= {each.event_id for each in batch}
        self.last_left = max(self.last_left, at)
        self.last.append(batch)

    async def _stopped(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    def _event(self) -> event_pb2.Event:
        choose = self._random
        made = event(
            f"{self._prefix}-{next(self._numbers)}",
            choose.choice(self.viewers),
            choose.choice(_KINDS),
            choose.choice(self._videos),
        )
        made.time.FromMicroseconds(int(1e6 * (time.time() - choose.random() * _PAST_SECONDS)))
        if made.kind == event_pb2.EVENT_KIND_PLAY:
            made.watched_fraction = choose.random()
        return made


def event(
    event_id: str, viewer: str, kind: event_pb2.EventKind.ValueType, video: str
) -> event_pb2.Event:
    """Return an event that happens now."""
    made = event_pb2.Event(event_id=event_id, viewer_id=viewer, kind=kind, video_id=video)
    if kind == event_pb2.EVENT_KIND_PLAY:
        made.watched_fraction = 1.0
    return made


async def removed_by(
    kind: event_pb2.EventKind.ValueType, site: Site, viewer: str, videos: Sequence[str], page: int
) -> float:
    """Record events of a viewer's videos; return the seconds until these have left the slate."""
    await site.record([event(f"{viewer}-{each}", viewer, kind, each) for each in videos])

    async def gone() -> bool:
        return not {*videos} & {*ids(await site.slate(viewer, page))}

    return await until(gone, f"the effect of {viewer}'s events", pause=0.01)


def ids(response: recommendation_pb2.RecommendResponse) -> list[str]:
    """Return the videos of a slate, best first."""
    return [item.video_id for item in response.items]
