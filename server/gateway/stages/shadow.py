"""Mirrors answered requests to the shadow pool and compares; no response waits for it."""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import structlog
from prometheus_client import Counter, Histogram

from vireo.server.gateway.query import RecommendQuery
from vireo.server.gateway.stages.answer import ranked_slate
from vireo.server.gateway.stages.call import StageFailedError
from vireo.server.gateway.stages.pods import (
    RankingCall,
    RetrievalCall,
    UnknownSeedError,
    rank,
    retrieve,
)
from vireo.v1.candidate_pb2 import RetrieveCandidatesRequest
from vireo.v1.recommendation_pb2 import RecommendResponse
from vireo.v1.release_pb2 import GetServingReleaseResponse, ShadowComparison

log = structlog.get_logger()

WINDOW = 1000
"""Number of latest comparisons in the summary."""
_TOP = 10
_PAIRS = 4
"""Maximum pairs of releases with separate counts: pods swap one by one."""

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

POOL = (("x-vireo-pool", "shadow"),)
"""Metadata that sends an inner call to the shadow pool."""
_QUEUE = 16
_WORKERS = 2
_MAX_REASON = 500
SECONDS = 2.0
"""Maximum seconds of each call: longer than viewers would wait, to measure slow shadows too."""


class Slate(NamedTuple):
    """The slate that one pool returned."""

    release_id: str
    """The release of its candidates and ranking."""
    ids: tuple[str, ...]
    """Best first."""
    scores: tuple[float, ...]
    """Scores by which it is ordered."""
    seconds: float
    """Latency of retrieval and ranking together."""


class Compared(NamedTuple):
    """How the shadow's slate for one request differs from the served one."""

    overlap: float
    """Share of the served top ten that is in the shadow's top ten."""
    score_shift: float
    """Mean score of the shadow's top ten minus that of the served top ten."""
    served_seconds: float
    shadow_seconds: float


def compare(served: Slate, shadow: Slate) -> Compared:
    """Compare two slates of at least one video each.

    Raises:
        ValueError: a score isn't finite; it would spoil the mean of a whole window.
    """
    if not np.isfinite([*served.scores[:_TOP], *shadow.scores[:_TOP]]).all():
        raise ValueError("a slate has a score that isn't finite")
    best = served.ids[:_TOP]
    common = set(best) & set(shadow.ids[:_TOP])
    return Compared(
        overlap=len(common) / len(best),
        score_shift=float(np.mean(shadow.scores[:_TOP]) - np.mean(served.scores[:_TOP])),
        served_seconds=served.seconds,
        shadow_seconds=shadow.seconds,
    )


@dataclass
class _Window:
    """Comparisons and counts of one pair of releases."""

    latest: deque[Compared] = field(default_factory=lambda: deque(maxlen=WINDOW))
    count: int = 0
    failed: int = 0
    dropped: int = 0


class Comparisons:
    """Counts and the latest comparisons, by served and shadow release.

    The summary covers the pair that was compared last.
    """

    def __init__(self) -> None:
        """Start without comparisons."""
        self._shadow_id = ""
        self._window = _Window()
        # By the served and the shadow's release; the pair compared last is the last.
        self._windows: OrderedDict[tuple[str, str], _Window] = OrderedDict()

    def add(self, served: Slate, shadow: Slate) -> None:
        """Compare the two slates of one request and record the outcome."""
        compared = compare(served, shadow)
        pair = served.release_id, shadow.release_id
        self._window = self._windows.setdefault(pair, _Window())
        self._windows.move_to_end(pair)
        if len(self._windows) > _PAIRS:
            self._windows.popitem(last=False)
        self._shadow_id = shadow.release_id
        self._window.latest.append(compared)
        self._window.count += 1
        OUTCOMES.labels("compared").inc()
        OVERLAP.observe(compared.overlap)

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
        latest = np.array([*window.latest] or [Compared(0.0, 0.0, 0.0, 0.0)])
        overlap, score_shift, _, _ = latest.mean(0)
        _, _, served_seconds, shadow_seconds = np.median(latest, 0)
        summary = ShadowComparison(
            release_id=self._shadow_id,
            compared=window.count,
            failed=window.failed,
            dropped=window.dropped,
            mean_overlap_10=overlap,
            mean_score_shift=score_shift,
        )
        summary.served_time.FromNanoseconds(round(served_seconds * 1e9))
        summary.shadow_time.FromNanoseconds(round(shadow_seconds * 1e9))
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
