"""The candidate pipeline: sources, filters, their union, exact scores, best first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vireo.server import signals
from vireo.server.arrays import Float32Array
from vireo.server.recommend.candidates import Candidates
from vireo.server.recommend.retrieval.query import CandidateQuery, Retrieval, UnknownSeedError
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.recommend.retrieval.sources import PROPOSE, SCORE
from vireo.server.recommend.runner import Caller, Observer, Run
from vireo.server.releases.manifest import Quotas

__all__ = ["CandidatePipeline", "CandidateQuery", "RetrievedCandidates", "UnknownSeedError"]


@dataclass(frozen=True)
class SourceStage:
    """Runs a declared source."""

    name: str
    bit: int
    """Its bit of the masks; 0 if it is no source of the API."""
    share: float | None = None
    """Maximum share of the query's count that it proposes; None for all of it."""

    def limit(self, count: int) -> int:
        """Return how many of `count` candidates it may propose."""
        return count if self.share is None else math.floor(self.share * count)

    def propose(self, query: Retrieval) -> Candidates:
        """Return the best candidates of the source, best first."""
        rows = PROPOSE[self.name](query, self.limit(query.query.count))
        masks = np.full(len(rows), self.bit, np.uint32)
        return Candidates(query.release.keys_of(rows), rows, masks)


SOURCES = tuple(SourceStage(each.name, each.bit) for each in signals.SOURCES)
LIVE = tuple(SourceStage(each.name, each.bit, each.quota) for each in signals.LIVE_SOURCES)
PINNED = SourceStage("pinned", 0)


def within(quotas: Quotas) -> tuple[SourceStage, ...]:
    """Return the sources with their shares, last the one without, which takes what they leave.

    Those of KEPT come first: where quotas leave too little for the sources of the log, which come
    before all, the candidates that are too many are those of the last.
    """
    stages = [replace(stage, share=quotas.root.get(stage.name)) for stage in SOURCES]
    return tuple(
        sorted(stages, key=lambda stage: (stage.share is None, stage.name not in signals.KEPT))
    )


@dataclass(frozen=True)
class RetrievedCandidates(Candidates):
    """Candidates, best first by `signals.ORDERING`, with each of `signals.SCORES`."""

    failures: Mapping[str, str] = field(default_factory=dict)
    """Error of each source that failed, or whose score did, which is neutral then; by name."""
    filtered: bool = False
    """Whether a filter was asked for and holds for each."""
    filter_share: float = 1.0
    """Share of the release's videos that the filter holds for."""


class CandidatePipeline:
    """Retrieves candidates from one release. Use it from one thread."""

    def __init__(
        self, release: CandidateRelease, *, fail_open: bool = True, observer: Observer | None = None
    ) -> None:
        """Build the chain.

        Args:
            release: the release to search.
            fail_open: False raises a source's failure instead of answering without it.
            observer: is told of stages' times and failures.
        """
        self.release = release
        self._fail_open, self._observer = fail_open, observer or Observer()
        live = LIVE if release.live is not None else ()
        self.sources = (*live, *within(release.manifest.quotas))
        # A manifest's quotas are fitted to viewers' next watches, and not to what is similar.
        self._similar = (*live, *within(Quotas()))

    def retrieve(self, query: CandidateQuery, caller: Caller | None = None) -> RetrievedCandidates:
        """Return the candidates for a query: `count`, or all that it allows if there are fewer.

        Raises:
            UnknownSeedError: the query's seed isn't in the release.
            CallerGoneError: the caller has gone.
        """
        asked = Retrieval.of(self.release, query)
        run = Run(self._observer, caller or Caller(), self._fail_open)
        sources = self.sources if query.seed_key is None else self._similar
        if len(query.pinned_keys):
            sources = (PINNED, *sources)
        found = _run(asked, sources, run)
        if run.failures and len(found) < query.count:
            found = _filled_up(asked, found, run)
        failures = {name: f"{type(each).__name__}: {each}" for name, each in run.failures.items()}
        if asked.applied is None:
            return RetrievedCandidates(**vars(found), failures=failures)
        return RetrievedCandidates(
            **vars(found), failures=failures, filtered=True, filter_share=asked.applied.share
        )


def _run(query: Retrieval, sources: Sequence[SourceStage], run: Run) -> Candidates:
    """Return the best candidates of some sources, best first; raise the failure if all failed."""
    parts = []
    for source in sources:
        with run.stage(source.name, Exception, "source"):
            parts.append(source.propose(query))
    if sources and not parts:
        raise run.failures[sources[-1].name]
    candidates = Candidates.concatenate(parts)
    with run.stage("blocked", kind="filter"):
        free = query.is_free(candidates.rows)
        candidates = candidates if free.all() else candidates.take(free.nonzero()[0])
    with run.stage("union", kind="selector"):
        candidates = _union(query, candidates)
    scores: dict[str, Float32Array] = {}
    for score in signals.SCORES:
        with run.stage(score.name, Exception, "scorer"):
            values = SCORE[score.name](query, candidates.rows)
            if not score.admits(values):  # NaN of a table, for example: nobody else may look
                raise FloatingPointError(f"{score.name} isn't finite, or out of its bounds")
            scores[score.name] = values
        if score.name not in scores:
            scores[score.name] = np.full(len(candidates), score.neutral, np.float32)
    with run.stage("best_by_ordering", kind="selector"):
        candidates = _best(query, candidates.with_scores(scores))
    return candidates  # noqa: RET504  # a stage may swallow exceptions, which checkers fear


def _union(query: Retrieval, candidates: Candidates) -> Candidates:
    """Return one candidate per video, those that are proposed first, at most `count`.

    Its mask has all sources that proposed it.
    """
    rows, places = candidates.rows, np.arange(len(candidates))
    # Of a column of all videos only what is read is written: it takes no time to make.
    first = np.empty(query.release.row_count, np.int64)
    first[rows[::-1]] = places[::-1]  # if rows are equal, the last one counts
    earliest = first.take(rows)
    # No source proposes a video twice, so the sum of its bits is their union.
    masks = np.bincount(earliest, candidates.source_masks, len(rows)).astype(np.uint32)
    merged = Candidates(candidates.keys, rows, masks)
    return merged.take((earliest == places).nonzero()[0][: query.query.count])


def _best(query: Retrieval, candidates: Candidates) -> Candidates:
    """Return the best by `signals.ORDERING`; ties keep their order, the same everywhere."""
    order = np.argsort(-candidates.scores[signals.ORDERING], kind="stable")
    return candidates.take(order[: query.query.count])


def _filled_up(query: Retrieval, found: Candidates, run: Run) -> Candidates:
    """Ask for more, beyond quotas: the source that takes what they leave has failed."""
    left = [stage for stage in SOURCES if stage.name not in run.failures]
    rest = query.without(found.rows, query.query.count - len(found))
    return _best(query, Candidates.concatenate([found, _run(rest, left, run)]))
