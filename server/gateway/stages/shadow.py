"""Mirrors answered requests to the shadow pool and compares; no response waits for it."""

from __future__ import annotations

import asyncio
import random
import time
from typing import NamedTuple

import structlog
from vireo.v1.candidate_pb2 import RetrieveCandidatesRequest
from vireo.v1.recommendation_pb2 import RecommendResponse
from vireo.v1.release_pb2 import GetServingReleaseResponse

from server.gateway.comparison import Comparisons, Slate
from server.gateway.query import RecommendQuery
from server.gateway.stages.answer import ranked_slate
from server.gateway.stages.failure import StageFailedError
from server.gateway.stages.rank import RankingCall, rank
from server.gateway.stages.retrieve import RetrievalCall, UnknownSeedError, retrieve

log = structlog.get_logger()

POOL = (("x-vireo-pool", "shadow"),)
"""Metadata that sends an inner call to the shadow pool."""
_QUEUE = 16
_WORKERS = 2
_MAX_REASON = 500
SECONDS = 2.0
"""Maximum seconds of each call: longer than viewers would wait, to measure slow shadows too."""


class _Answered(NamedTuple):
    query: RecommendQuery
    request: RetrieveCandidatesRequest
    """The request for its candidates, pinned to the release that answered."""
    served: Slate


class Shadow:
    """A bounded queue of answered requests, and the tasks that repeat them."""

    def __init__(self, retrieval: RetrievalCall, ranking: RankingCall, share: float) -> None:
        """Start with an empty queue.

        Args:
            retrieval: the call to candidate pods of POOL, limited to SECONDS.
            ranking: the call to ranking pods, limited alike.
            share: share of requests to mirror, 0 to 1.
        """
        self._comparisons = Comparisons()
        self._retrieval, self._ranking = retrieval, ranking
        self._share = share
        self._queue: asyncio.Queue[_Answered] = asyncio.Queue(_QUEUE)
        self._reason = ""
        """The latest logged reason why a response could not be compared."""

    def offer(
        self,
        query: RecommendQuery,
        request: RetrieveCandidatesRequest,
        slate: RecommendResponse,
        seconds: float,
    ) -> None:
        """Enqueue a slate for comparison, if it is sampled and the queue has room.

        `request` is that for its candidates; retrieval and ranking took `seconds`.
        """
        if not slate.items or random.random() >= self._share:  # noqa: S311
            return
        try:
            self._queue.put_nowait(_Answered(query, request, slate_of(slate, seconds)))
        except asyncio.QueueFull:
            self._comparisons.dropped()

    def describe(self, response: GetServingReleaseResponse) -> None:
        """Add to the description of a release how the shadow pool's slates compare."""
        response.shadow.CopyFrom(self._comparisons.summary())

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
                self._comparisons.failed()
            except Exception as error:
                # Declared policy: whatever another build answers, viewers don't notice. What goes
                # on is logged once: a stack for each request would fill the disk.
                reason = repr(error)[:_MAX_REASON]
                if reason != self._reason:
                    self._reason = reason
                    log.exception("a shadow's answer can't be compared")
                self._comparisons.failed()

    async def _repeat(self, answered: _Answered) -> None:
        request = answered.request
        request.ClearField("release_id")  # the shadow pool serves another
        # Retrieval leaves ranking its part of the time: each call has all of SECONDS.
        query = answered.query._replace(deadline=time.monotonic() + 2.5 * SECONDS)
        started = time.perf_counter()
        candidates, masks = await retrieve(self._retrieval, query, request)
        ranked = await rank(self._ranking, query, request.viewer, candidates, masks)
        slate = ranked_slate(ranked, candidates)
        if not slate.items:
            raise StageFailedError("the shadow pool answered no videos")
        if ranked.release_id != candidates.release_id:
            raise StageFailedError("the shadow pool's candidates and ranking are of two releases")
        seconds = time.perf_counter() - started
        self._comparisons.add(answered.served, slate_of(slate, seconds))


def slate_of(slate: RecommendResponse, seconds: float) -> Slate:
    """Return what is compared of a slate; retrieval and ranking took `seconds`."""
    return Slate(
        slate.release_id,
        tuple(item.video_id for item in slate.items),
        tuple(item.score for item in slate.items),
        seconds,
    )
