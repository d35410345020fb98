"""The candidate pipeline: sources, filters, their union, exact scores, best first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from vireo.server import signals
from vireo.server.arrays import BoolArray, Float32Array, Int64Array
from vireo.server.recommend.candidates import Candidates
from vireo.server.recommend.retrieval.query import CandidateQuery, Retrieval, UnknownSeedError
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.recommend.retrieval.sources import (
    co_watch,
    ease,
    fresh,
    new,
    popular,
    trending,
    two_tower,
)
from vireo.server.recommend.runner import Caller, Observer, Pipeline, Run
from vireo.server.releases.manifest import Quotas

__all__ = [
    "CandidatePipeline",
    "CandidateQuery",
    "RetrievedCandidates",
    "UnknownSeedError",
]

_PROPOSE: Mapping[str, Callable[[Retrieval, int], Int64Array]] = {
    "two_tower": two_tower.propose,
    "co_watch": co_watch.propose,
    "ease": ease.propose,
    "popular": popular.propose,
    "fresh": fresh.propose,
    "trending": trending.propose,
}
_SCORE: Mapping[str, Callable[[Retrieval, Int64Array], Float32Array]] = {
    "two_tower": two_tower.score,
    "co_watch": co_watch.score,
    "ease": ease.score,
}


class BlockedFilter:
    """Removes videos that aren't free; the seed of an UP_NEXT query counts as watched."""

    name = "blocked"

    def keep(self, query: Retrieval, candidates: Candidates) -> BoolArray:
        """Return which candidates are free, bool[n]."""
        return query.is_free(candidates.rows)


class Union:
    """Merges proposals into at most `count` videos, those that are proposed first."""

    name = "union"

    def select(self, query: Retrieval, candidates: Candidates) -> Candidates:
        """Return one candidate per video, in the order of the proposals.

        Its mask has all sources that proposed it.
        """
        rows, places = candidates.rows, np.arange(len(candidates))
        # Of a column of all videos only what is read is written: it takes no time to make.
        first = np.empty(len(query.release.keys), np.int64)
        first[rows[::-1]] = places[::-1]  # if rows are equal, the last one counts
        earliest = first.take(rows)
        # No source proposes a video twice, so the sum of its bits is their union.
        masks = np.bincount(earliest, candidates.source_masks, len(rows)).astype(np.uint32)
        merged = Candidates(candidates.keys, rows, masks)
        return merged.take((earliest == places).nonzero()[0][: query.query.count])


@dataclass(frozen=True)
class SourceStage:
    """Runs a declared source."""

    name: str
    bit: int
    """Its bit of the masks."""
    share: float | None = None
    """Maximum share of the query's count that it proposes; None for all of it."""
    fail_open: bool = True

    def limit(self, count: int) -> int:
        """Return how many of `count` candidates it may propose."""
        return count if self.share is None else math.floor(self.share * count)

    def best(self, query: Retrieval, limit: int) -> Int64Array:
        """Return the rows of the best `limit` videos of the source, best first."""
        return _PROPOSE[self.name](query, limit)

    def propose(self, query: Retrieval) -> Candidates:
        """Return the best candidates of the source, best first."""
        rows = self.best(query, self.limit(query.query.count))
        masks = np.full(len(rows), self.bit, np.uint32)
        return Candidates(query.release.keys.take(rows), rows, masks)


@dataclass(frozen=True)
class ScoreStage:
    """Adds a declared score."""

    name: str
    """The score's, and so its source's, whose report has the failures of both."""
    columns: Mapping[str, float]
    """The score's name and its neutral value."""
    fail_open: bool = True

    def score(self, query: Retrieval, candidates: Candidates) -> Mapping[str, Float32Array]:
        """Return the score of each candidate."""
        return {self.name: _SCORE[self.name](query, candidates.rows)}


SOURCES = tuple(SourceStage(each.name, each.bit) for each in signals.SOURCES)
SCORERS = tuple(ScoreStage(each.name, {each.name: each.neutral}) for each in signals.SCORES)
LIVE = tuple(
    SourceStage(each.name, each.bit, each.quota)
    for each in signals.LIVE_SOURCES
    if each is not signals.NEW  # whose videos join the others at the end
)


class PinnedSource:
    """Proposes what the site's rules pin; no source of the API."""

    name = "pinned"
    fail_open = True

    def propose(self, query: Retrieval) -> Candidates:
        """Return those of the pinned videos that the query allows."""
        rows = query.release.rows.find(query.query.pinned_keys)
        rows = rows[rows >= 0]
        rows = rows[query.is_free(rows)]
        return Candidates(query.release.keys.take(rows), rows, np.zeros(len(rows), np.uint32))


def within(quotas: Quotas) -> tuple[SourceStage, ...]:
    """Return the sources with their shares, last the one without, which takes what they leave."""
    stages = [replace(stage, share=quotas.root.get(stage.name)) for stage in SOURCES]
    return tuple(sorted(stages, key=lambda stage: stage.share is None))


@dataclass(frozen=True)
class RetrievedCandidates(Candidates):
    """Candidates, best first by `signals.ORDERING`, with each of `signals.SCORES`."""

    failures: Mapping[str, str] = field(default_factory=dict)
    """Error of each source that failed, or whose score did, which is neutral then; by name."""
    filtered: bool = False
    """Whether a filter was asked for and holds for each."""
    filter_share: float = 1.0
    """Share of the release's videos that the filter holds for."""


class BestByOrdering:
    """Orders by `signals.ORDERING`; ties keep the union's order, which is the same everywhere."""

    name = "best_by_ordering"

    def select(self, query: Retrieval, candidates: Candidates) -> Candidates:
        """Return the best `count` candidates, best first."""
        order = np.argsort(-candidates.scores[signals.ORDERING], kind="stable")
        return candidates.take(order[: query.query.count])


class CandidatePipeline:
    """Retrieves candidates from one release. Safe to use from several threads."""

    def __init__(
        self,
        release: CandidateRelease,
        quotas: Quotas | None = None,
        *,
        fail_open: bool = True,
        observer: Observer | None = None,
    ) -> None:
        """Build the chain.

        Args:
            release: the release to search.
            quotas: shares of the sources. If None those of the release's manifest, which are
                fitted to viewers' next watches, and the defaults for what is similar to a video.
            fail_open: False raises a source's failure instead of answering without it.
            observer: is told of stages' times and failures.
        """
        self.release = release
        self._fail_open, self._observer = fail_open, observer or Observer()
        live = LIVE if release.live is not None else ()
        self.sources = (*live, *within(quotas or release.manifest.quotas))
        similar = self.sources if quotas else (*live, *within(Quotas()))
        self._chains = {
            (seeded, pinned): Pipeline[Retrieval](
                sources=(PinnedSource(), *sources) if pinned else sources,
                filters=(BlockedFilter(),),
                merge=Union(),
                scorers=SCORERS,
                selector=BestByOrdering(),
            )
            for seeded, sources in ((False, self.sources), (True, similar))
            for pinned in (False, True)
        }

    def retrieve(self, query: CandidateQuery, caller: Caller | None = None) -> RetrievedCandidates:
        """Return the candidates for a query: `count`, or all that it allows if there are fewer.

        Raises:
            UnknownSeedError: the query's seed isn't in the release.
            CallerGoneError: the caller has gone.
        """
        asked = Retrieval.of(self.release, query)
        run = Run(self._observer, caller or Caller(), self._fail_open)
        chain = self._chains[query.seed_key is not None, len(query.pinned_keys) > 0]
        found = chain.run(asked, run)
        if run.failures and len(found) < query.count:
            found = self._filled_up(asked, found, chain, run)
        live = self.release.live
        # Without a vector there is nothing to search new videos by.
        if live is not None and live.table.places and signals.ORDERING not in run.failures:
            with run.stage(signals.NEW.name, Exception, "source"):
                found = new.join(asked, live, found)
        failures = {name: f"{type(each).__name__}: {each}" for name, each in run.failures.items()}
        if asked.applied is None:
            return RetrievedCandidates(**vars(found), failures=failures)
        return RetrievedCandidates(
            **vars(found), failures=failures, filtered=True, filter_share=asked.applied.share
        )

    def _filled_up(
        self, asked: Retrieval, found: Candidates, chain: Pipeline[Retrieval], run: Run
    ) -> Candidates:
        """Ask for more, beyond quotas: the source that takes what they leave has failed."""
        left = tuple(stage for stage in SOURCES if stage.name not in run.failures)
        rest = asked.without(found.rows, asked.query.count - len(found))
        more = replace(chain, sources=left).run(rest, run)
        return chain.selector.select(asked, Candidates.concatenate([found, more]))
