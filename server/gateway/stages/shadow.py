"""Mirrors answered requests to the shadow pool and compares; no response waits for it."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass

import structlog
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.viewer_pb2 import ViewerFeatures

from server.gateway.comparison import Comparisons, Slate
from server.gateway.deadline import Deadline
from server.gateway.query import RecommendQuery
from server.gateway.stages.answer import ranked_items
from server.gateway.stages.attempt import StageFailedError
from server.gateway.stages.rank import Rank
from server.gateway.stages.retrieve import Retrieve, UnknownSeedError

log = structlog.get_logger()

POOL = (("x-vireo-pool", "shadow"),)
"""Metadata that sends an inner call to the shadow pool."""
_QUEUE = 16
_WORKERS = 2
_MAX_REASON = 500
SECONDS = 2.0
"""Maximum seconds of each call: longer than viewers would wait, to measure slow shadows too."""


@dataclass(frozen=True)
class _Answered:
    query: RecommendQuery
    viewer: ViewerFeatures
    candidates: int
    """Number of requested candidates."""
    count_of_release: bool
    """Whether the release's own number applies instead."""
    served: Slate


class Shadow:
    """A bounded queue of answered requests, and the tasks that repeat them."""

    def __init__(self, retrieve: Retrieve, rank: Rank, share: float) -> None:
        """Start with an empty queue.

        Args:
            retrieve: the call to candidate pods, limited to SECONDS.
            rank: the call to ranking pods, limited alike.
            share: share of requests to mirror, 0 to 1.
        """
        self.comparisons = Comparisons()
        self._retrieve, self._rank = retrieve, rank
        self._share = share
        self._queue: asyncio.Queue[_Answered] = asyncio.Queue(_QUEUE)
        self._reason = ""
        """The latest logged reason why a response could not be compared."""

    def offer(
        self,
        query: RecommendQuery,
        viewer: ViewerFeatures,
        candidates: int,
        count_of_release: bool,
        items: list[pb.SlateItem],
        release_id: str,
        seconds: float,
    ) -> None:
        """Enqueue a slate for comparison, if it is sampled and the queue has room.

        Args:
            query: what was asked.
            viewer: the viewer's features as they were read.
            candidates: how many were asked for.
            count_of_release: whether the release says how many instead.
            items: the slate.
            release_id: the release that it came from.
            seconds: what retrieval and ranking took.
        """
        if not items or random.random() >= self._share:  # noqa: S311
            return
        try:
            served = slate_of(release_id, items, seconds)
            self._queue.put_nowait(_Answered(query, viewer, candidates, count_of_release, served))
        except asyncio.QueueFull:
            self.comparisons.dropped()

    async def run(self) -> None:
        """Process the queue until cancelled."""
        async with asyncio.TaskGroup() as workers:
            for _ in range(_WORKERS):
                workers.create_task(self._work())

    async def _work(self) -> None:
        while True:
            answered = await self._queue.get()
            try:
                await self._repeat(answered)
            except (StageFailedError, UnknownSeedError):
                self.comparisons.failed()
            except Exception as error:
                # Declared policy: whatever another build answers, viewers don't notice. What goes
                # on is logged once: a stack for each request would fill the disk.
                reason = repr(error)[:_MAX_REASON]
                if reason != self._reason:
                    self._reason = reason
                    log.exception("a shadow's answer can't be compared")
                self.comparisons.failed()

    async def _repeat(self, answered: _Answered) -> None:
        # Retrieval leaves ranking its part of the time: each call has all of SECONDS.
        query = answered.query.again(Deadline.after(2.5 * SECONDS))
        started = time.perf_counter()
        viewer = answered.viewer
        candidates = await self._retrieve(
            query,
            viewer,
            answered.candidates,
            "",
            POOL,
            count_of_release=answered.count_of_release,
        )
        ranked = await self._rank(query, viewer, candidates, POOL)
        items = ranked_items(ranked, candidates)
        if not items:
            raise StageFailedError("the shadow pool answered no videos")
        if ranked.release_id != candidates.release_id:
            raise StageFailedError("the shadow pool's candidates and ranking are of two releases")
        seconds = time.perf_counter() - started
        self.comparisons.add(answered.served, slate_of(ranked.release_id, items, seconds))


def slate_of(release_id: str, items: list[pb.SlateItem], seconds: float) -> Slate:
    """Return the slate of some items."""
    return Slate(
        release_id,
        tuple(item.video_id for item in items),
        tuple(item.score for item in items),
        seconds,
    )
