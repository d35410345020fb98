"""What training chooses on validation, and its studies: quotas of sources, strength of diversity.

Quotas are fitted to the recall of the candidate sources, alone and together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from threadpoolctl import threadpool_limits

from vireo.server.arrays import BoolArray, Float32Array, Int64Array
from vireo.server.recommend.candidates import Candidates
from vireo.server.recommend.ranking.diversity import RERANK_WINDOW, diverse_order
from vireo.server.recommend.ranking.release import RankingRelease
from vireo.server.recommend.retrieval.pipeline import SOURCES, CandidateQuery, within
from vireo.server.recommend.retrieval.query import Retrieval
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases.manifest import Quotas, ScoreWeights
from vireo.server.signals import KEPT
from vireo.server.signals import SOURCES as DECLARED
from vireo.training.evaluation.chain import run_chain
from vireo.training.evaluation.systems import HeldOutWatches, list_ranks
from vireo.training.features.publication import of_the_past
from vireo.training.metrics import coverage, hit_rate, intra_list_distance, ndcg
from vireo.training.progress import tracked
from vireo.training.ranking.loss import Batches, chunks
from vireo.training.ranking.model import Ranker
from vireo.training.ranking.training_set import RankingSet, WatchLists

CUTOFFS = (100, 200, 500)
NAMES = tuple(source.name for source in SOURCES)
STEPS = (0.05, 0.2)
"""Shares by which a source's quota is raised at a time."""
MAX_VIEWERS = 10_000
"""Maximum viewers, whose proposals take some 50 kB each."""
FIT_VIEWERS = 2_000
"""Maximum viewers that quotas are fitted to: recall is known to a hundredth then."""

STRENGTHS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
ALLOWED_LOSS = 0.005
"""Maximum share of NDCG@10, and of HR@10, that diversity may cost."""
_SLATE = 10
_MAX_LISTS = 4000
_MISSED = -2
"""Row of a target that is in no list."""


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


@dataclass(frozen=True)
class ScoredLists:
    """Best candidates of v viewers by score, before diversity."""

    rows: Int64Array
    """Best first, int64[v, RERANK_WINDOW], -1 for none."""
    scores: Float32Array
    """float32[v, RERANK_WINDOW]."""
    targets: Int64Array
    """Row of each held-out video, int64[v]."""


@dataclass(frozen=True)
class Point:
    """Measures at one strength."""

    strength: float
    ndcg_10: float
    hr_10: float
    intra_list_distance: float
    """Mean cosine distance between two videos of the first ten."""
    coverage: float
    """Share of the catalogue that is in someone's first ten."""


def diversity_curve(
    lists: ScoredLists, vectors: Float32Array, strengths: Sequence[float] = STRENGTHS
) -> Iterator[Point]:
    """Measure the first ten of every list at each strength, as the points are asked for."""
    full = (lists.rows[:, :_SLATE] >= 0).all(1)
    for strength in strengths:
        slates = reordered(lists, vectors, strength)
        ranks = list_ranks(slates, lists.targets)
        distance = intra_list_distance(slates[full], vectors) if full.any() else 0.0
        hits, share = hit_rate(ranks, _SLATE), coverage(slates, len(vectors))
        yield Point(strength, ndcg(ranks, _SLATE), hits, distance, share)


def reordered(lists: ScoredLists, vectors: Float32Array, strength: float) -> Int64Array:
    """Return the first ten of each list as serving orders them, int64[v, 10]."""
    slates = np.full((len(lists.rows), _SLATE), -1, np.int64)
    for place, rows in enumerate(lists.rows):
        real = rows[rows >= 0]
        scores = lists.scores[place, : len(real)]
        count = min(_SLATE, len(real))
        if count:
            slates[place, :count] = real[diverse_order(scores, vectors[real], strength, count)]
    return slates


def worth_it(curve: Iterable[Point], allowed: float = ALLOWED_LOSS) -> float:
    """Return the largest strength before NDCG@10 or HR@10 lose `allowed` of the first point's.

    NDCG alone hardly changes when the lower half of the slate is given up. No point after the first
    such loss is asked for.
    """
    kept, points = 1 - allowed, iter(curve)
    first = next(points)
    chosen = first.strength
    for point in itertools.chain([first], points):
        # NDCG must lose less than is allowed.
        if point.ndcg_10 <= kept * first.ndcg_10 or point.hr_10 < kept * first.hr_10:
            break
        chosen = point.strength
    return chosen


def choose_diversity(
    model: Ranker, data: RankingSet, vectors: Float32Array, weights: ScoreWeights
) -> float:
    """Return the strength for a release, chosen on the lists that the ranker was trained on.

    The held-out viewers alone are too few to measure a loss of 1%.

    Args:
        model: the trained ranker.
        data: its training set.
        vectors: video vectors, float32[n, d].
        weights: exponents of the tasks' probabilities in the score.
    """
    lists = _lists_of(model, data.watches, Batches(vectors), weights)
    # As pods have it: for products as small as a slate's, threads wait for each other.
    with threadpool_limits(1, user_api="blas"):
        return worth_it(diversity_curve(lists, vectors))


@torch.no_grad()
def _lists_of(
    model: Ranker, watches: WatchLists, batches: Batches, weights: ScoreWeights
) -> ScoredLists:
    places = np.arange(len(watches.rows))
    if len(places) > _MAX_LISTS:
        places = np.random.default_rng(0).choice(places, _MAX_LISTS, replace=False)
    rows = np.full((len(places), RERANK_WINDOW), -1, np.int64)
    scores = np.zeros((len(places), RERANK_WINDOW), np.float32)
    model.eval()
    for some in chunks(np.arange(len(places)), 64):
        inputs, real = batches.inputs(watches, places[some])
        tasks = model(**inputs).numpy()
        names = model.schema.tasks
        score = weights.combined({name: tasks[..., place] for place, name in enumerate(names)})
        score = np.where(real.numpy(), score, -1.0)
        best = np.argsort(-score, axis=1, kind="stable")[:, :RERANK_WINDOW]
        kept = np.take_along_axis(score, best, 1)
        found = np.take_along_axis(watches.rows[places[some]], best, 1)
        rows[some, : best.shape[1]] = np.where(kept >= 0, found, -1)
        scores[some, : best.shape[1]] = np.maximum(kept, 0)
    label = watches.label[places]
    wanted = watches.rows[places, np.maximum(label, 0)]
    return ScoredLists(rows, scores, np.where(label >= 0, wanted, _MISSED))


def study_diversity(
    candidates: CandidateRelease,
    ranking: RankingRelease,
    held_out: HeldOutWatches,
    count: int,
    repo: Path,
) -> dict[str, Any]:
    """Measure a release at each strength on held-out watches, with the features of `repo`.

    Returns:
        `chosen`: the release's strength; `viewers`; `points`: a Point each.
    """
    answers = run_chain(candidates, ranking, held_out.viewers, held_out.targets, count, repo)
    scores = np.where(answers.ranked >= 0, answers.scores, -1)
    # By score alone, whatever the release's strength.
    best = np.lexsort((candidates.keys[answers.ranked], -scores))[:, :RERANK_WINDOW]
    lists = ScoredLists(
        np.take_along_axis(answers.ranked, best, 1),
        np.take_along_axis(scores, best, 1),
        held_out.targets,
    )
    curve = diversity_curve(lists, candidates.vectors.astype(np.float32, copy=False))
    return {
        "chosen": ranking.manifest.score_weights.diversity,
        "viewers": len(lists.rows),
        "points": [asdict(point) for point in curve],
    }
