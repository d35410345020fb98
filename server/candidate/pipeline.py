"""The candidate pipeline: sources, filters, one union, exact scores, best first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from vireo.v1 import viewer_pb2

from server.candidate.filters.blocked import BlockedFilter
from server.candidate.query import CandidateQuery, Retrieval, UnknownSeedError
from server.candidate.quotas import QuotaMerge
from server.candidate.release import CandidateRelease
from server.candidate.scorers import co_watch as co_watch_score
from server.candidate.scorers import ease as ease_score
from server.candidate.scorers import two_tower as two_tower_score
from server.candidate.scorers.co_watch import CoWatchScorer
from server.candidate.scorers.ease import EaseScorer
from server.candidate.scorers.two_tower import TwoTowerScorer
from server.candidate.sources.co_watch import CoWatchSource
from server.candidate.sources.ease import EaseSource
from server.candidate.sources.fresh import FreshSource
from server.candidate.sources.popular import PopularSource
from server.candidate.sources.two_tower import TwoTowerSource
from server.pipeline.caller import Caller
from server.pipeline.candidates import Candidates
from server.pipeline.runner import Pipeline
from server.releases.manifest import Quotas

__all__ = [
    "CandidatePipeline",
    "CandidateQuery",
    "Quotas",
    "RetrievedCandidates",
    "SourceCount",
    "UnknownSeedError",
]

SOURCES = (TwoTowerSource(), CoWatchSource(), EaseSource(), PopularSource(), FreshSource())
SCORERS = (TwoTowerScorer(), CoWatchScorer(), EaseScorer())
SCORES = {
    viewer_pb2.SOURCE_TWO_TOWER: TwoTowerScorer.name,
    viewer_pb2.SOURCE_CO_WATCH: CoWatchScorer.name,
    viewer_pb2.SOURCE_EASE: EaseScorer.name,
}
"""The scorer behind each source that has one: what fails there is missing, too."""
_BITS = {source.source: np.uint32(1 << source.source) for source in SOURCES}
"""Of each source in a mask."""


@dataclass(frozen=True)
class SourceCount:
    """What one source did for one query."""

    source: viewer_pb2.Source.ValueType
    proposed: int
    """How many of the returned candidates it proposed."""
    failure: str
    """Why it, or the score by it, failed; empty when neither did."""


@dataclass(frozen=True)
class RetrievedCandidates:
    """Candidates in columns, best first by two-tower score."""

    keys: npt.NDArray[np.int64]
    """int64[n]."""
    rows: npt.NDArray[np.int64]
    """Rows in the release's tables, int64[n]."""
    two_tower: npt.NDArray[np.float32]
    """float32[n]; all 0 where the viewer tower failed."""
    co_watch: npt.NDArray[np.float32]
    """float32[n]."""
    ease: npt.NDArray[np.float32]
    """float32[n]."""
    source_masks: npt.NDArray[np.uint32]
    """uint32[n]."""
    reports: tuple[SourceCount, ...]


class BestByTwoTower:
    """Orders by two-tower score; ties keep the union's order, which is the same everywhere."""

    name = "best_by_two_tower"

    def select(self, query: Retrieval, candidates: Candidates) -> Candidates:
        """The best `count` candidates, best first."""
        order = np.argsort(-candidates.scores[two_tower_score.COLUMN], kind="stable")
        return candidates.take(order[: query.query.count])


class CandidatePipeline:
    """Finds candidates in one release. Safe to use from several threads."""

    def __init__(
        self, release: CandidateRelease, quotas: Quotas | None = None, *, fail_open: bool = True
    ) -> None:
        """Takes the release, and the shares of its sources.

        Args:
            release: where to look.
            quotas: shares of the answer; those of the release's manifest if None.
            fail_open: False raises a source's failure instead of answering without it.
        """
        self.release = release
        self._pipeline: Pipeline[Retrieval] = Pipeline(
            sources=SOURCES,
            filters=(BlockedFilter(),),
            merge=QuotaMerge(quotas or release.manifest.quotas),
            scorers=SCORERS,
            selector=BestByTwoTower(),
            fail_open=fail_open,
        )

    def retrieve(self, query: CandidateQuery, caller: Caller | None = None) -> RetrievedCandidates:
        """The candidates for a query: `count`, or all unwatched ones where there are fewer.

        Raises:
            UnknownSeedError: the query's seed isn't in the release.
            CallerGoneError: the caller, if there is one, has gone meanwhile.
        """
        outcome = self._pipeline.run(Retrieval.of(self.release, query), caller)
        selected, failures = outcome.selected, outcome.failures()
        masks = selected.source_masks
        reports = tuple(
            SourceCount(
                source.source,
                int(np.count_nonzero(masks & _BITS[source.source])),
                failures.get(source.name) or failures.get(SCORES.get(source.source, ""), ""),
            )
            for source in SOURCES
        )
        return RetrievedCandidates(
            keys=selected.keys,
            rows=selected.rows,
            two_tower=selected.scores[two_tower_score.COLUMN],
            co_watch=selected.scores[co_watch_score.COLUMN],
            ease=selected.scores[ease_score.COLUMN],
            source_masks=selected.source_masks,
            reports=reports,
        )
