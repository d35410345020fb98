"""Mirrors answered requests to the shadow pool and compares; no response waits for it."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

import numpy as np
import structlog
from cachetools import TTLCache
from prometheus_client import Counter, Histogram

from vireo.server.gateway.pods import (
    RankingCall,
    RetrievalCall,
    StageFailedError,
    rank,
    retrieve,
)
from vireo.server.gateway.query import RecommendQuery
from vireo.server.gateway.slate import ranked_slate
from vireo.server.rpc.errors import RpcError
from vireo.v1.candidate_pb2 import RetrieveCandidatesRequest
from vireo.v1.recommendation_pb2 import RecommendResponse
from vireo.v1.release_pb2 import GetServingReleaseResponse, ShadowComparison

log = structlog.get_logger()

WINDOW = 1000
"""Number of latest comparisons in the summary."""
_PAIRS = 4
"""Maximum pairs of releases that have a summary: a canary, or pods that are swapping, alternate."""
_KEPT_SECONDS = 3600.0
"""Seconds after which a pair that comes back starts afresh: after a rollback, for example."""
_TOP = 10
_QUEUE, _WORKERS = 16, 2
POOL = (("x-vireo-pool", "shadow"),)
"""Metadata that sends an inner call to the shadow pool."""
SECONDS = 2.0
"""Maximum seconds of each call: longer than viewers would wait, to measure slow shadows too."""

OUTCOMES = Counter(
    "vireo_shadow_requests",
    "Requests mirrored to the shadow pool, by outcome.",
    ["outcome"],
)
OVERLAP = Histogram(
    "vireo_shadow_overlap_ratio",
    "Share of the top ten that is in the shadow's top ten.",
    buckets=[tenth / 10 for tenth in range(11)],
)


class Slate(NamedTuple):
    """The slate that one pool returned, of at least one video, and how long it took."""

    response: RecommendResponse
    seconds: float
    """Latency of retrieval and ranking together."""


@dataclass
class _Window:
    """Counts and latest comparisons of one release served with one of the shadow."""

    compared: int = 0
    failed: int = 0
    dropped: int = 0
    latest: deque[tuple[float, float, float, float]] = field(
        default_factory=lambda: deque(maxlen=WINDOW)
    )
    """Overlap, mean score of the shadow's top ten minus that of the served, both latencies."""


class Comparisons:
    """Counts and latest comparisons by pair of releases: the served one and the shadow's."""

    def __init__(self) -> None:
        """Start without comparisons."""
        self._shadow_id, self._window = "", _Window()
        self._windows: TTLCache[tuple[str, str], _Window] = TTLCache(_PAIRS, _KEPT_SECONDS)

    def add(self, served: Slate, shadow: Slate) -> None:
        """Compare the two slates of one request."""
        self._shadow_id = shadow.response.release_id
        pair = served.response.release_id, self._shadow_id
        self._window = self._windows.get(pair) or _Window()
        self._windows[pair] = self._window
        tops = [each.response.items[:_TOP] for each in (served, shadow)]
        served_ids, shadow_ids = ({item.video_id for item in top} for top in tops)
        served_score, shadow_score = (fmean(item.score for item in top) for top in tops)
        overlap = len(served_ids & shadow_ids) / len(served_ids)
        shift = shadow_score - served_score
        self._window.latest.append((overlap, shift, served.seconds, shadow.seconds))
        self._window.compared += 1
        OUTCOMES.labels("compared").inc()
        OVERLAP.observe(overlap)

    def failed(self) -> None:
        """Count a request that the shadow did not answer in full."""
        self._window.failed += 1
        OUTCOMES.labels("failed").inc()

    def dropped(self) -> None:
        """Count a request that was dropped because the queue was full."""
        self._window.dropped += 1
        OUTCOMES.labels("dropped").inc()

    def summary(self) -> ShadowComparison:
        """Return the summary of the pair that was compared last."""
        window = self._window
        latest = np.array([*window.latest] or [(0.0, 0.0, 0.0, 0.0)])
        summary = ShadowComparison(
            release_id=self._shadow_id,
            compared=window.compared,
            failed=window.failed,
            dropped=window.dropped,
            mean_overlap_10=latest[:, 0].mean(),
            mean_score_shift=latest[:, 1].mean(),
        )
        summary.served_time.FromNanoseconds(round(np.median(latest[:, 2]) * 1e9))
        summary.shadow_time.FromNanoseconds(round(np.median(latest[:, 3]) * 1e9))
        return summary


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
            self._queue.put_nowait(_Answered(query, request, Slate(slate, seconds)))
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
            except (StageFailedError, RpcError):
                self._comparisons.failed()
            except Exception as error:  # noqa: BLE001
                # Declared policy: whatever another build answers, viewers don't notice. A stack
                # for each request would fill the disk.
                log.error("a shadow's response can't be compared", reason=repr(error)[:500])
                self._comparisons.failed()

    async def _repeat(self, answered: _Answered) -> None:
        request = answered.request
        request.ClearField("release_id")  # the shadow pool serves another
        # Retrieval leaves ranking its part of the time: each call has all of SECONDS.
        query = answered.query._replace(deadline=time.monotonic() + 2.5 * SECONDS)
        started = time.perf_counter()
        candidates = await retrieve(self._retrieval, query, request)
        ranked = await rank(self._ranking, query, request.viewer, candidates)
        slate = ranked_slate(ranked, candidates)
        if not slate.items:
            raise StageFailedError("the shadow pool answered no videos")
        if ranked.release_id != candidates.release_id:
            raise StageFailedError("the shadow pool's candidates and ranking are of two releases")
        seconds = time.perf_counter() - started
        self._comparisons.add(answered.served, Slate(slate, seconds))
