"""What a site's own code asks of the edge."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc

from bench.beside import beside
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
_REPEATED = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
_BATCHES = 10
"""Batches a second of a steady flow."""

Answer = TypeVar("Answer")


class RefusedError(VireoError):
    """A call that isn't repeated: it would fail again."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        """Take over what the server said."""
        super().__init__(f"{error.code().name}: {error.details()}")
        self.code = error.code()


class Site:
    """Calls that are repeated until they succeed, as they may be: all of them are idempotent."""

    def __init__(self, channel: grpc.aio.Channel, patience: float) -> None:
        """Hold a connection to the edge."""
        self._patience = patience
        # The stubs of asyncio are of another type than the stubs' file declares.
        self._recommend: Any = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        self._events: Any = event_pb2_grpc.EventServiceStub(channel)
        self._catalog: Any = catalog_pb2_grpc.CatalogServiceStub(channel)
        self.repeated = 0
        """Number of calls that failed and were repeated."""

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
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if error.code() not in _REPEATED or time.monotonic() > until:
                    raise RefusedError(error) from error
            self.repeated += 1
            await asyncio.sleep(_PAUSE)


@asynccontextmanager
async def opened_site(target: str, patience: float) -> AsyncIterator[Site]:
    """Yield a site that calls the edge at host:port by a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(target, options) as channel:
        yield Site(channel, patience)


@asynccontextmanager
async def steady_events(site: Site, rate: float, videos: Sequence[str]) -> AsyncIterator[None]:
    """Record plays of some thousand viewers at a rate, until the block ends; raise what fails."""
    size = max(1, round(rate / _BATCHES))
    prefix = f"beside-{time.monotonic_ns()}"

    async def flow() -> None:
        begun = time.monotonic()
        async with asyncio.TaskGroup() as calls:
            for number in range(1 << 62):
                await asyncio.sleep(max(0.0, begun + number * size / rate - time.monotonic()))
                some = [
                    event(
                        f"{prefix}-{each}",
                        f"beside-{each % 5_000}",
                        event_pb2.EVENT_KIND_PLAY,
                        videos[each * 7919 % len(videos)],
                    )
                    for each in range(number * size, (number + 1) * size)
                ]
                calls.create_task(site.record(some))

    async with beside(flow()):
        yield


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
        made.time.FromNanoseconds(int(at * 1e6) * 1_000)
    if kind == event_pb2.EVENT_KIND_PLAY:
        made.watched_fraction = 1.0
    return made


def ids(response: recommendation_pb2.RecommendResponse) -> list[str]:
    """Return the videos of a slate, best first."""
    return [item.video_id for item in response.items]


async def until(
    holds: Callable[[], Awaitable[bool]], what: str, patience: float, pause: float = 0.02
) -> float:
    """Return the seconds until something holds; raise VireoError if it doesn't."""
    begun = time.monotonic()
    while not await holds():
        if time.monotonic() - begun > patience:
            raise VireoError(f"{what} took more than {patience:.0f} s")
        await asyncio.sleep(pause)
    return time.monotonic() - begun


def in_batches(items: Iterable[Answer], size: int) -> list[list[Answer]]:
    """Return items by the batch."""
    batches: list[list[Answer]] = []
    for each in items:
        if not batches or len(batches[-1]) == size:
            batches.append([])
        batches[-1].append(each)
    return batches
