"""Recall of each candidate source, alone and with the others, and recall by quotas."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console

from server.arrays import BoolArray, Int64Array
from server.candidate.pipeline import SOURCES, CandidateQuery, within
from server.candidate.query import Retrieval
from server.candidate.release import CandidateRelease
from server.pipeline.candidates import Candidates
from server.releases.weights import Quotas
from training.evaluation.held_out import HeldOutWatches
from training.heartbeat import tracked

CUTOFFS = (100, 200, 500)
NAMES = tuple(source.name for source in SOURCES)
MULTIPLES = (0.0, 0.5, 1.0, 1.5)
"""Multiples of each source's default quota that are tried; every combination up to 1."""
MAX_VIEWERS = 10_000
"""Maximum viewers, whose proposals take some 50 kB each."""


@dataclass(frozen=True)
class Proposals:
    """Unwatched videos that every source proposed to each viewer."""

    quotas: Quotas
    """The release's."""
    proposed: tuple[Mapping[str, Candidates], ...]
    """Each viewer's proposals by source, best first."""
    targets: Int64Array
    """Row of each held-out video, int64[v]."""

    @staticmethod
    def gather(
        release: CandidateRelease, held_out: HeldOutWatches, count: int = CUTOFFS[-1]
    ) -> Proposals:
        """Return the `count` best of every source for at least one viewer.

        More than MAX_VIEWERS viewers are sampled, always the same.
        """
        places = np.arange(len(held_out.viewers))
        if len(places) > MAX_VIEWERS:
            places = np.random.default_rng(0).choice(places, MAX_VIEWERS, replace=False)
        proposed = []
        for place in tracked(places, "asking the sources", Console(stderr=True)):
            asked = CandidateQuery(viewer=held_out.viewers[place], count=count)
            query = Retrieval.of(release, asked)
            proposed.append({source.name: source.propose(query) for source in SOURCES})
        return Proposals(release.manifest.quotas, tuple(proposed), held_out.targets[places])

    def alone(self, name: str, count: int) -> BoolArray:
        """Return whether the target is among a source's `count` best, bool[v]."""
        pairs = zip(self.proposed, self.targets, strict=True)
        return np.array([target in own[name].rows[:count] for own, target in pairs], bool)

    def merged(self, quotas: Quotas, count: int, without: str | None = None) -> BoolArray:
        """Return whether the target is in the union of `count` by these quotas, bool[v]."""
        stages = [stage for stage in within(quotas) if stage.name != without]
        found = np.zeros(len(self.targets), bool)
        for place, own in enumerate(self.proposed):
            # Beyond the quotas too, for what is missing without the source that fills them up.
            parts = [own[stage.name].rows[: stage.limit(count)] for stage in stages]
            parts += [own[stage.name].rows[stage.limit(count) :] for stage in stages]
            rows = np.concatenate(parts)
            firsts = np.sort(np.unique(rows, return_index=True)[1])
            found[place] = self.targets[place] in rows[firsts[:count]]
        return found

    def pooled(self, count: int) -> tuple[BoolArray, float]:
        """Return whether any source has the target among its `count` best, bool[v].

        And the mean number of videos in this unlimited union.
        """
        found, sizes = np.zeros(len(self.targets), bool), []
        for place, own in enumerate(self.proposed):
            pool = np.unique(np.concatenate([one.rows[:count] for one in own.values()]))
            found[place] = self.targets[place] in pool
            sizes.append(len(pool))
        return found, float(np.mean(sizes))


def study_sources(proposals: Proposals) -> dict[str, Any]:
    """Measure recall at CUTOFFS of each source, of the union, and of the union without each.

    Returns:
        `viewers`; `alone`, `without` and `union`: recall by cutoff; `pooled`: by cutoff, `recall`
        of that many of every source, and the mean number of `videos` these are; `quotas`: the
        release's.
    """

    def by_cutoff(found: Callable[[int], BoolArray]) -> dict[str, float]:
        return {str(count): _share(found(count)) for count in CUTOFFS}

    pools = {str(count): proposals.pooled(count) for count in CUTOFFS}
    return {
        "viewers": len(proposals.targets),
        "quotas": proposals.quotas.model_dump(),
        "alone": {name: by_cutoff(partial(proposals.alone, name)) for name in NAMES},
        "union": by_cutoff(partial(proposals.merged, proposals.quotas)),
        "pooled": {
            count: {"recall": _share(found), "videos": videos}
            for count, (found, videos) in pools.items()
        },
        "without": {
            name: by_cutoff(partial(proposals.merged, proposals.quotas, without=name))
            for name in NAMES
        },
    }


def tune_quotas(proposals: Proposals, count: int) -> list[dict[str, float]]:
    """Measure recall at `count` of every combination of MULTIPLES.

    Returns:
        Shares and `recall` of each, best first, then smallest shares first.
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
