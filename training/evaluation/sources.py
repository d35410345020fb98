"""What each candidate source finds, alone and beside the others, and which quotas find most."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from server.candidate.filters.blocked import BlockedFilter
from server.candidate.pipeline import SOURCES, CandidateQuery
from server.candidate.query import Retrieval
from server.candidate.quotas import QuotaMerge
from server.candidate.release import CandidateRelease
from server.pipeline.candidates import Candidates
from server.releases.weights import Quotas
from training.evaluation.held_out import HeldOutWatches
from training.heartbeat import tracked

CUTOFFS = (100, 200, 500)
SOURCES_FILE = "sources.json"
NAMES = tuple(source.name for source in SOURCES)
MULTIPLES = (0.0, 0.5, 1.0, 1.5)
"""Shares that are tried of each source, in terms of its default; every combination up to 1."""

VIEWERS_LIMIT = 10_000
"""Proposals of one viewer take some 50 kB."""

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Proposals:
    """What every source proposed to each viewer, the watched ones taken out."""

    query: Retrieval
    """The first viewer's: merging reads nothing of it but how many are asked for."""
    proposed: tuple[Mapping[str, Candidates], ...]
    """Of each viewer, by name of the source, best first."""
    targets: npt.NDArray[np.int64]
    """Row of each held-out video, int64[v]."""

    @staticmethod
    def gather(
        release: CandidateRelease, held_out: HeldOutWatches, count: int = CUTOFFS[-1]
    ) -> Proposals:
        """Asks every source of the candidate pipeline for its `count` best; some viewer is given.

        Of more than VIEWERS_LIMIT viewers a sample is asked, always the same.
        """
        places = np.arange(len(held_out.ids))
        if len(places) > VIEWERS_LIMIT:
            places = np.random.default_rng(0).choice(places, VIEWERS_LIMIT, replace=False)
        unwatched, proposed = BlockedFilter(), []
        console = Console(stderr=True)
        for place in tracked(places, "asking the sources", console):
            asked = CandidateQuery(viewer=held_out.viewers[place], count=count)
            query = Retrieval.of(release, asked)
            own = {}
            for source in SOURCES:
                found = source.propose(query)
                own[source.name] = found.take(np.flatnonzero(unwatched.keep(query, found))[:count])
            proposed.append(own)
        return Proposals(query, tuple(proposed), held_out.targets[places])

    def alone(self, name: str, count: int) -> BoolArray:
        """Whether the target is among a source's `count` best, bool[v]."""
        pairs = zip(self.proposed, self.targets, strict=True)
        return np.array([target in own[name].rows[:count] for own, target in pairs], bool)

    def merged(self, quotas: Quotas, count: int, without: str | None = None) -> BoolArray:
        """Whether the target is in the union of `count` that the quotas make, bool[v]."""
        merge = QuotaMerge(quotas)
        query = replace(self.query, query=replace(self.query.query, count=count))
        found = np.zeros(len(self.targets), bool)
        for place, own in enumerate(self.proposed):
            parts = [candidates for name, candidates in own.items() if name != without]
            union = merge.select(query, Candidates.concatenate(parts))
            found[place] = self.targets[place] in union.rows
        return found

    def pooled(self, count: int) -> tuple[BoolArray, float]:
        """What a union without a limit would find.

        Returns:
            Whether the target is among any source's `count` best, bool[v]; and how many videos
            these are, on average.
        """
        found, sizes = np.zeros(len(self.targets), bool), []
        for place, own in enumerate(self.proposed):
            pool = np.unique(np.concatenate([one.rows[:count] for one in own.values()]))
            found[place] = self.targets[place] in pool
            sizes.append(len(pool))
        return found, float(np.mean(sizes))


def study_sources(proposals: Proposals) -> dict[str, Any]:
    """Recall at CUTOFFS of each source, of the union, and of the union without each.

    Returns:
        `viewers`; `alone`, `without` and `union`: recall by cutoff; `pooled`: by cutoff, recall of
        that many of every source, and the mean number of `videos` these are; `quotas`: the
        release's.
    """
    quotas = proposals.query.release.manifest.quotas
    pools = {str(count): proposals.pooled(count) for count in CUTOFFS}
    return {
        "viewers": len(proposals.targets),
        "quotas": quotas.model_dump(),
        "alone": {
            name: {str(count): _share(proposals.alone(name, count)) for count in CUTOFFS}
            for name in NAMES
        },
        "union": {str(count): _share(proposals.merged(quotas, count)) for count in CUTOFFS},
        "pooled": {
            count: {"recall": _share(found), "videos": videos}
            for count, (found, videos) in pools.items()
        },
        "without": {
            name: {
                str(count): _share(proposals.merged(quotas, count, without=name))
                for count in CUTOFFS
            }
            for name in NAMES
        },
    }


def tune_quotas(proposals: Proposals, count: int) -> list[dict[str, float]]:
    """Recall at `count` of every combination of MULTIPLES, the best first.

    Returns:
        For each the shares and `recall`; of equals the one with the smallest shares first.
    """
    tried = [
        quotas.model_dump() | {"recall": _share(proposals.merged(quotas, count))}
        for quotas in _grid()
    ]
    return sorted(tried, key=lambda one: (-one["recall"], math.fsum(one.values())))


def _grid() -> Iterator[Quotas]:
    default = Quotas().root
    for times in itertools.product(MULTIPLES, repeat=len(default)):
        shares = [share * each for share, each in zip(default.values(), times, strict=True)]
        if math.fsum(shares) <= 1:
            yield Quotas(dict(zip(default, shares, strict=True)))


def _share(found: BoolArray) -> float:
    return float(found.mean()) if len(found) else 0.0
