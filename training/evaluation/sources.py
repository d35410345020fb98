"""Recall of each candidate source, alone and with the others, and the quotas fitted to it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console

from vireo.server.arrays import BoolArray, Int64Array
from vireo.server.recommend.candidates import Candidates
from vireo.server.recommend.retrieval.pipeline import SOURCES, CandidateQuery, within
from vireo.server.recommend.retrieval.query import Retrieval
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases.manifest import Quotas
from vireo.server.signals import SOURCES as DECLARED
from vireo.training.evaluation.viewers import HeldOutWatches
from vireo.training.features.publication import of_the_past
from vireo.training.heartbeat import tracked

CUTOFFS = (100, 200, 500)
NAMES = tuple(source.name for source in SOURCES)
STEPS = (0.05, 0.2)
"""Shares by which a source's quota is raised at a time."""
KEPT = frozenset({"fresh"})
"""Sources that keep their default: held-out watches are of videos that others have found."""
MAX_VIEWERS = 10_000
"""Maximum viewers, whose proposals take some 50 kB each."""
FIT_VIEWERS = 2_000
"""Maximum viewers that quotas are fitted to: recall is known to a hundredth then."""


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
        """Return the `count` best of every source for each viewer, as of the request."""
        release, embargo = of_the_past(release)
        proposed = []
        for place, viewer in enumerate(
            tracked(held_out.viewers, "asking the sources", Console(stderr=True))
        ):
            embargo.ask(viewer.asked_at, int(held_out.targets[place]))
            query = Retrieval.of(release, CandidateQuery(viewer=viewer, count=count))
            proposed.append({source.name: source.propose(query) for source in SOURCES})
        return Proposals(release.manifest.quotas, tuple(proposed), held_out.targets)

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
            [places] = (rows == self.targets[place]).nonzero()
            # Videos that are proposed twice count once.
            found[place] = len(places) and (
                places[0] < count or len(np.unique(rows[: places[0]])) < count
            )
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


def fit_quotas(proposals: Proposals, count: int) -> list[dict[str, float]]:
    """Raise the quotas from two-tower alone, each time the one that adds most to recall at `count`.

    It ends where no step finds more targets than it loses by more than one standard error of that
    difference, so that a source that adds nothing has no quota.

    Returns:
        Shares and `recall` before and after each step, the best last.
    """
    declared = {source.name: source.quota for source in DECLARED if source.quota is not None}
    raisable = [name for name in declared if name not in KEPT]
    shares = {name: quota * (name in KEPT) for name, quota in declared.items()}
    found = proposals.merged(Quotas(shares), count)
    path = [{**shares, "recall": _share(found)}]
    while True:
        tried = []
        for name, step in itertools.product(raisable, STEPS):
            raised = {**shares, name: round(shares[name] + step, 2)}
            if sum(raised.values()) <= 1:
                tried.append((raised, proposals.merged(Quotas(raised), count)))
        best, now = max(tried, key=lambda each: each[1].sum(), default=(shares, found))
        gained, lost = int((now & ~found).sum()), int((found & ~now).sum())
        if gained - lost <= math.sqrt(gained + lost):
            return path
        shares, found = best, now
        path.append({**shares, "recall": _share(found)})


def _share(found: BoolArray) -> float:
    return float(found.mean()) if len(found) else 0.0
