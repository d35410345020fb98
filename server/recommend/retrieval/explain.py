"""What became of one video in retrieval, for `ExplainVideo`; its sources are asked twice more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from vireo.server.arrays import Float32Array, Int64Array
from vireo.server.columns import encode_columns
from vireo.server.recommend.candidates import Candidates
from vireo.server.recommend.catalogue.attributes import labels_of, numbers_of
from vireo.server.recommend.catalogue.overlay import Change
from vireo.server.recommend.filters.unmet import unmet
from vireo.server.recommend.retrieval.pipeline import (
    SCORERS,
    CandidatePipeline,
    RetrievedCandidates,
)
from vireo.server.recommend.retrieval.query import CandidateQuery, Retrieval
from vireo.server.recommend.retrieval.sources import new, two_tower
from vireo.server.recommend.wording import REMOVED, UNPUBLISHED, listed, ordinal, why_blocked
from vireo.server.releases.manifest import MAX_CANDIDATES
from vireo.server.signals import EVERY_SOURCE, NEW, ORDERING, SCORES, SOURCES, TRENDING
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2
from vireo.v1.candidate_pb2 import ExplainedRetrieval
from vireo.v1.catalog_pb2 import Video

_FILLER = next(source for source in SOURCES if source.quota is None)
"""The source that takes the places that the quotas of others leave."""
_IN_API = {
    source.name: viewer_pb2.Source.Value(f"SOURCE_{source.name.upper()}") for source in EVERY_SOURCE
}


class SourceRank(NamedTuple):
    """How one source ranked a video."""

    source: str
    rank: int
    """From 1; 0 if the source doesn't rank it, or only after all that it was asked for."""
    proposed: Int64Array
    """Rows of all that the source proposed, best first, int64[p]."""
    among: bool
    """Whether it is one of them."""
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
        pb.SourceRank(source=_IN_API[each.source], rank=each.rank, proposed=len(each.proposed))
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
        """Its row in the release; -1 if the release doesn't have it."""
        return int(self.retrieval.release.rows.find(np.array([self.key]))[0])

    @cached_property
    def side_row(self) -> int:
        """Its row in the side table if it came since; -1 if it has none."""
        live = self.retrieval.release.live
        return live.table.places.get(self.key, -1) if live is not None and self.row < 0 else -1

    @cached_property
    def change(self) -> Change | None:
        """Its last upsert in the catalogue; None if the release knows of none since."""
        live = self.retrieval.release.live
        change = None if live is None else live.table.overlay.get(self.key)
        if live is None or change is None:
            return None
        after = self.row < 0 or change.position > live.table.merged
        return change if after else None

    def lost_before_retrieval(self) -> tuple[pb.LostAt.ValueType, str] | None:
        """Return where it was lost before sources may propose it, and why; None if it wasn't."""
        release, query = self.retrieval.release, self.retrieval.query
        name = release.manifest.release_id
        live = release.live
        removed = live is not None and self.key in live.table.overlay.takedowns
        if self.row < 0 and self.change is None and not removed:
            log = "" if release.live is None else ", and the log of the catalogue's changes neither"
            return pb.LOST_AT_CATALOG, f"Release {name} doesn't have it{log}."
        blocked = why_blocked(
            self.key,
            seed_key=query.seed_key,
            hidden=query.viewer.hidden_keys,
            watched=query.viewer.watched_keys,
            excluded=query.excluded_keys,
        )
        if blocked or removed:
            return pb.LOST_AT_BLOCKED, blocked or REMOVED
        if release.embargo.holds(self.key, self.row):
            return pb.LOST_AT_BLOCKED, UNPUBLISHED
        if query.filter is not None and (why := unmet(query.filter, *self._attributes())):
            return pb.LOST_AT_FILTER, f"A filter forbids it: {why}."
        if self.row < 0 and self.side_row < 0:
            waits = "which can't place it" if self._unplaced() else "and isn't placed yet"
            reason = f"It came since release {name} was trained, {waits}."
            return pb.LOST_AT_RETRIEVAL, reason
        return None

    def scores(self) -> dict[str, Float32Array]:
        """Return its scores, float32[1] each; none if it has no vector."""
        asked, failed = self.retrieval, self.found.failures
        if self.row >= 0:
            rows = np.array([self.row])
            one = Candidates(np.array([self.key]), rows, np.zeros(1, np.uint32))
            stages = [stage for stage in SCORERS if stage.name not in failed]
            return {stage.name: stage.score(asked, one)[stage.name] for stage in stages}
        if self.side_row < 0 or asked.release.live is None or ORDERING in failed:
            return {}
        vector = asked.release.live.table.vectors[self.side_row]
        scores = {score.name: np.full(1, score.neutral, np.float32) for score in SCORES}
        return scores | {ORDERING: np.array([vector @ asked.vector], np.float32)}

    def ranks(self) -> list[SourceRank]:
        """Return how each source ranked it that may propose it and hasn't failed."""
        row = self.row if self.row >= 0 else self.side_row
        return [
            SourceRank(
                name,
                rank=1 + int((order == row).argmax()) if row in order else 0,
                proposed=proposed,
                among=row in proposed,
                looked_at=len(order),
            )
            for name, proposed, order in self._orders()
            if name not in self.found.failures
        ]

    def why_not_retrieved(self, ranks: Sequence[SourceRank]) -> str:
        """Return why it isn't among the candidates, given how the sources ranked it."""
        proposing = [each for each in ranks if each.among]
        if not proposing:
            return self._why_not_proposed(ranks)
        source, rank, proposed, *_ = proposing[0]
        if source != _FILLER.name:
            return (
                f"{source} ranked it {ordinal(rank)} and proposed {len(proposed):,}, but the "
                f"{len(self.found):,} candidates were proposed before it."
            )
        filling = self.found.rows[self.found.source_masks == _FILLER.bit]
        last = np.isin(proposed, filling).nonzero()[0].max(initial=-1) + 1
        room = f"for its first {last:,} only" if last else "for none of its own"
        return (
            f"{source} ranked it {ordinal(rank)}, but beside the candidates of other sources there "
            f"was room {room}."
        )

    def _why_not_proposed(self, ranks: Sequence[SourceRank]) -> str:
        parts = [
            f"{each.source} ranked it {ordinal(each.rank)} and proposed {len(each.proposed):,}"
            for each in sorted(ranks, key=lambda each: each.rank)
            if each.rank > len(each.proposed)
        ]
        missing = [each.source for each in ranks if not each.rank and each.source != _FILLER.name]
        if self._overlooked(ranks):
            parts.insert(0, f"the approximate search of {_FILLER.name} overlooked it")
        else:
            parts += [
                f"{each.source} ranked it after its first {each.looked_at:,}"
                for each in ranks
                if not each.rank and each.source == _FILLER.name
            ]
        if missing:
            parts.append(f"{listed(missing)} {'do' if len(missing) > 1 else 'does'} not rank it")
        failed = [name for name in self.found.failures if name in _IN_API]
        if failed:
            parts.append(f"{listed(failed)} failed")
        return f"No source proposed it: {'; '.join(parts)}."

    def _overlooked(self, ranks: Sequence[SourceRank]) -> bool:
        """Return whether it is nearer than what the index found."""
        filler = next((each for each in ranks if each.source == _FILLER.name), None)
        if filler is None or self.retrieval.release.index.exact or not len(filler.proposed):
            return False
        own, last = two_tower.score(
            self.retrieval, np.array([self.row, filler.proposed[-1]], np.int64)
        )
        return bool(own > last)

    def _orders(self) -> Iterator[tuple[str, Int64Array, Int64Array]]:
        """Yield each source's name, what it proposed, and its order, which begins with that."""
        asked = self.retrieval
        release, count = asked.release, asked.query.count
        if self.row < 0:
            assert release.live is not None
            every = release.live.table.count
            usable = new.usable_rows(asked, release.live)
            proposed = new.propose(asked, release.live, usable, new.limits(count))
            orders = new.propose(asked, release.live, usable, (every, every))
            yield from zip((NEW.name, TRENDING.name), proposed, orders, strict=True)
            return
        # So many that an answer costs no more than a few retrievals: a search that compares every
        # vector finds more for nearly the same, and one in cells looks in more of them.
        most = MAX_CANDIDATES if release.index.exact else min(2 * count, MAX_CANDIDATES)
        for stage in self.pipeline.sources:
            if stage.name not in self.found.failures:
                first = stage.best(asked, stage.limit(count))
                order = stage.best(asked, max(most, count))
                # A filtered search for more looks in other cells.
                after = order[~np.isin(order, first)]
                yield stage.name, first, np.concatenate([first, after])

    def _attributes(self) -> tuple[set[str], dict[str, float]]:
        """Return its labels and numbers, as they are now."""
        release = self.retrieval.release
        if self.change is None:
            return release.filters.attributes_of(self.row)
        video, declared = Video.FromString(self.change.video), release.filters.declared
        return set(labels_of(video, declared)), numbers_of(video, declared)

    def _unplaced(self) -> bool:
        live = self.retrieval.release.live
        return live is not None and self.key in live.table.unplaced
