"""What became of one video in retrieval, for `ExplainVideo`; its sources are asked twice more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from vireo.server.arrays import Float32Array, Int64Array
from vireo.server.columns import encode_columns
from vireo.server.recommend.filters.expression import unmet
from vireo.server.recommend.filters.table import labels_of, numbers_of
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline, RetrievedCandidates
from vireo.server.recommend.retrieval.query import CandidateQuery, Retrieval
from vireo.server.recommend.retrieval.sources import PROPOSE, SCORE
from vireo.server.recommend.wording import REMOVED, UNPUBLISHED, listed, ordinal, why_blocked
from vireo.server.releases.manifest import MAX_CANDIDATES
from vireo.server.signals import EVERY_SOURCE, LIVE_SOURCES, NEW, SOURCES
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2
from vireo.v1.candidate_pb2 import ExplainedRetrieval

_FILLER = next(source.name for source in SOURCES if source.quota is None)
"""The source that takes the places that the quotas of others leave, and ranks every video."""
_IN_API = {
    source.name: viewer_pb2.Source.Value(f"SOURCE_{source.name.upper()}") for source in EVERY_SOURCE
}
_RANK_ALL = {_FILLER, NEW.name}
"""The sources that rank every video that they may propose, unless there is no viewer's vector."""
_OF_NEW = {source.name for source in LIVE_SOURCES}
"""The sources that may propose a video that the release doesn't have."""


class SourceRank(NamedTuple):
    """How one source ranked a video."""

    source: str
    rank: int
    """From 1; 0 if the source doesn't rank it, or only after all that it was asked for."""
    proposed: int
    """How many videos the source proposed: a video of a higher rank wasn't."""
    looked_at: int
    """How many of the source's videos were looked at, best first."""


def explain(
    pipeline: CandidatePipeline, query: CandidateQuery, found: RetrievedCandidates, key: int
) -> ExplainedRetrieval:
    """Return what became of a video when `found` was retrieved for `query`, in the same run.

    Sources and scores that failed are left out, as they were of the candidates.
    """
    asked = _Asked(pipeline, Retrieval.of(pipeline.release, query), found, key)
    explained = ExplainedRetrieval(scores=encode_columns(asked.scores()))
    if lost := asked.lost_before_retrieval():
        explained.lost_at, explained.reason = lost
        return explained
    ranks = asked.ranks()
    explained.source_ranks.extend(
        pb.SourceRank(source=_IN_API[each.source], rank=each.rank, proposed=each.proposed)
        for each in ranks
    )
    if key not in found.keys:
        explained.lost_at = pb.LOST_AT_RETRIEVAL
        explained.reason = asked.why_not_retrieved(ranks)
    return explained


@dataclass(frozen=True)
class _Asked:
    """A video, and the retrieval that is explained."""

    pipeline: CandidatePipeline
    retrieval: Retrieval
    found: RetrievedCandidates
    key: int

    @cached_property
    def row(self) -> int:
        """Its row in the release, or as a live video, placed or not; -1 if there is none."""
        release, live = self.retrieval.release, self.retrieval.release.live
        row = int(release.rows.find(np.array([self.key]))[0])
        if row < 0 and live is not None and self.key in live.places:
            row = live.first + live.places[self.key]
        return row

    @cached_property
    def is_new(self) -> bool:
        """Whether it came since the release was trained."""
        return self.row >= len(self.retrieval.release.keys)

    @property
    def has_vector(self) -> bool:
        """Whether it can be retrieved."""
        live = self.retrieval.release.live
        if live is None or not self.is_new:
            return self.row >= 0
        return bool(live.placed[self.row - live.first])

    def lost_before_retrieval(self) -> tuple[pb.LostAt.ValueType, str] | None:
        """Return where it was lost before sources may propose it, and why; None if it wasn't."""
        release, query = self.retrieval.release, self.retrieval.query
        name, live = release.manifest.release_id, release.live
        removed = live is not None and self.key in live.overlay.takedowns
        if self.row < 0 and not removed:
            log = "" if live is None else ", nor was it added since"
            return pb.LOST_AT_CATALOG, f"Release {name} doesn't have this video{log}."
        blocked = why_blocked(
            self.key,
            seed_key=query.seed_key,
            hidden=query.viewer.hidden_keys,
            watched=query.viewer.watched_keys,
            excluded=query.excluded_keys,
        )
        if not blocked and removed:
            blocked = REMOVED
        if not blocked and self.row in release.embargo.unpublished():
            blocked = UNPUBLISHED
        if blocked:
            return pb.LOST_AT_BLOCKED, blocked
        if query.filter is not None and (unfit := unmet(query.filter, *self._attributes())):
            return pb.LOST_AT_FILTER, f"A filter forbids it: {unfit}."
        if not self.has_vector:
            never = live is not None and self.key in live.unfit
            waits = "which can't place it" if never else "and isn't placed yet"
            reason = f"It came since release {name} was trained, {waits}."
            return pb.LOST_AT_RETRIEVAL, reason
        return None

    def scores(self) -> dict[str, Float32Array]:
        """Return its scores, float32[1] each; none if it has no vector."""
        if not self.has_vector:
            return {}
        one, failed = np.array([self.row]), self.found.failures
        return {
            name: score(self.retrieval, one) for name, score in SCORE.items() if name not in failed
        }

    def ranks(self) -> list[SourceRank]:
        """Return how each source ranked it that may propose it and hasn't failed."""
        asked, ranks = self.retrieval, []
        release, count = asked.release, asked.query.count
        # So many that an answer costs no more than a few retrievals: a search that compares every
        # vector finds more for nearly the same, and one in cells looks in more of them.
        most = MAX_CANDIDATES if release.index.exact else min(2 * count, MAX_CANDIDATES)
        if self.is_new and release.live is not None:
            most = max(most, release.live.count)  # NEW compares all of them anyway
        for stage in self.pipeline.sources:
            may = stage.name in _OF_NEW if self.is_new else stage.name != NEW.name
            if may and stage.name not in self.found.failures:
                best = partial(PROPOSE[stage.name], asked)
                first = self._alike(best(stage.limit(count)))
                order = self._alike(best(max(most, count)))
                # A filtered search for more looks in other cells.
                order = np.concatenate([first, order[~np.isin(order, first)]])
                rank = 1 + int((order == self.row).argmax()) if self.row in order else 0
                ranks.append(SourceRank(stage.name, rank, len(first), len(order)))
        return ranks

    def _alike(self, rows: Int64Array) -> Int64Array:
        """Return those rows that are new if it is, else the others: TRENDING ranks them apart."""
        new = rows >= len(self.retrieval.release.keys)
        return rows[new if self.is_new else ~new]

    def why_not_retrieved(self, ranks: Sequence[SourceRank]) -> str:
        """Return why it isn't among the candidates, given how the sources ranked it."""
        for each in ranks:
            if 0 < each.rank <= each.proposed:
                return (
                    f"{each.source} ranked it {ordinal(each.rank)} and proposed "
                    f"{each.proposed:,}, but the {len(self.found):,} candidates were proposed "
                    "before it."
                )
        parts = [
            f"{each.source} ranked it {ordinal(each.rank)} and proposed {each.proposed:,}"
            for each in sorted(ranks, key=lambda each: each.rank)
            if each.rank
        ]
        missing = [each for each in ranks if not each.rank]
        parts += [
            f"{each.source} ranked it after its first {each.looked_at:,}"
            for each in missing
            if each.source == _FILLER
        ]
        if names := [each.source for each in missing if each.source not in _RANK_ALL]:
            parts.append(f"{listed(names)} {'do' if len(names) > 1 else 'does'} not rank it")
        if failed := [name for name in self.found.failures if name in _IN_API]:
            parts.append(f"{listed(failed)} failed")
        return f"No source proposed it: {'; '.join(parts)}."

    def _attributes(self) -> tuple[set[str], dict[str, float]]:
        """Return its labels and numbers, as they are now."""
        release = self.retrieval.release
        video, declared = release.changed_video(self.row), release.filters.declared
        if video is None:
            return release.filters.attributes_of(self.row)
        return set(labels_of(video, declared)), numbers_of(video, declared)
