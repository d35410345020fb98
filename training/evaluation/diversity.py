"""What diversity costs and gives: measures by strength, and the strength that is worth it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from server.candidate.pipeline import CandidatePipeline, CandidateQuery
from server.candidate.release import CandidateRelease
from server.ranking.diversity import RERANK_WINDOW, diverse_order
from server.ranking.pipeline import RankingPipeline
from server.ranking.release import RankingRelease
from server.releases.weights import ScoreWeights
from server.signals import TASKS
from training.evaluation.chain import list_ranks, rank_all
from training.evaluation.held_out import HeldOutWatches
from training.evaluation.metrics import coverage, hit_rate, intra_list_distance, ndcg
from training.heartbeat import tracked
from training.ranking.batches import Batches, chunks
from training.ranking.model import Ranker
from training.ranking.training_set import RankingSet, WatchLists

DIVERSITY_FILE = "diversity.json"
STRENGTHS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
"""Those that are tried, in order."""
ALLOWED_LOSS = 0.005
"""Share of NDCG@10, and of HR@10, that diversity may cost: half of a hundredth."""
_SLATE = 10
_LISTS_LIMIT = 4000
MISSED = -2
"""Row of a target that is in no list."""

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ScoredLists:
    """The best of v viewers by score, before diversity."""

    rows: Int64Array
    """Best first, int64[v, RERANK_WINDOW], -1 for none."""
    scores: Float32Array
    """float32[v, RERANK_WINDOW]."""
    targets: Int64Array
    """Row of each held-out video, int64[v]."""


@dataclass(frozen=True)
class Point:
    """What one strength gives."""

    strength: float
    ndcg_10: float
    hr_10: float
    intra_list_distance: float
    """Mean cosine distance between two of the first ten."""
    coverage: float
    """Share of the catalogue in some first ten."""


def diversity_curve(
    lists: ScoredLists, vectors: Float32Array, strengths: Sequence[float] = STRENGTHS
) -> list[Point]:
    """The first ten places of every list, put in order by each strength."""
    points = []
    full = (lists.rows[:, :_SLATE] >= 0).all(1)
    for strength in strengths:
        slates = reordered(lists, vectors, strength)
        ranks = list_ranks(slates, lists.targets)
        distance = intra_list_distance(slates[full], vectors) if full.any() else 0.0
        points.append(
            Point(
                strength=strength,
                ndcg_10=ndcg(ranks, _SLATE),
                hr_10=hit_rate(ranks, _SLATE),
                intra_list_distance=distance,
                coverage=coverage(slates, len(vectors)),
            )
        )
    return points


def reordered(lists: ScoredLists, vectors: Float32Array, strength: float) -> Int64Array:
    """The first ten of each list as serving orders them, int64[v, 10]."""
    slates = np.full((len(lists.rows), _SLATE), -1, np.int64)
    for place, rows in enumerate(lists.rows):
        real = rows[rows >= 0]
        scores = lists.scores[place, : len(real)]
        count = min(_SLATE, len(real))
        if count:
            slates[place, :count] = real[diverse_order(scores, vectors[real], strength, count)]
    return slates


def worth_it(curve: Sequence[Point], allowed: float = ALLOWED_LOSS) -> float:
    """The largest strength up to which NDCG@10 and HR@10 keep to within `allowed` of the first's.

    NDCG alone would not see it when the lower half of the slate is given up.
    """
    kept = 1 - allowed
    chosen = curve[0].strength
    for point in curve:
        # Equal to the floor is a loss of all that is allowed: not less.
        if point.ndcg_10 <= kept * curve[0].ndcg_10 or point.hr_10 < kept * curve[0].hr_10:
            break
        chosen = point.strength
    return chosen


def choose_diversity(
    model: Ranker, data: RankingSet, vectors: Float32Array, weights: ScoreWeights
) -> float:
    """The strength for a release, chosen on the lists that the ranker was trained with.

    Those of its held-out viewers alone are too few to see one part in a hundred.

    Args:
        model: the trained ranker.
        data: its training set.
        vectors: video vectors, float32[n, d].
        weights: how the tasks' probabilities make a score.
    """
    batches = Batches(vectors).as_served(data.served_features)
    return worth_it(diversity_curve(_lists_of(model, data.watches, batches, weights), vectors))


@torch.no_grad()
def _lists_of(
    model: Ranker, watches: WatchLists, batches: Batches, weights: ScoreWeights
) -> ScoredLists:
    places = np.arange(len(watches.rows))
    if len(places) > _LISTS_LIMIT:
        places = np.random.default_rng(0).choice(places, _LISTS_LIMIT, replace=False)
    rows = np.full((len(places), RERANK_WINDOW), -1, np.int64)
    scores = np.zeros((len(places), RERANK_WINDOW), np.float32)
    model.eval()
    for some in chunks(np.arange(len(places)), 64):
        inputs, real = batches.watch_inputs(watches, places[some])
        tasks = model(**inputs).numpy()
        score = weights.combined({task.name: tasks[..., place] for place, task in enumerate(TASKS)})
        score = np.where(real.numpy(), score, -1.0)
        best = np.argsort(-score, axis=1, kind="stable")[:, :RERANK_WINDOW]
        kept = np.take_along_axis(score, best, 1)
        found = np.take_along_axis(watches.rows[places[some]], best, 1)
        rows[some, : best.shape[1]] = np.where(kept >= 0, found, -1)
        scores[some, : best.shape[1]] = np.maximum(kept, 0)
    label = watches.label[places]
    wanted = watches.rows[places, np.maximum(label, 0)]
    return ScoredLists(rows, scores, np.where(label >= 0, wanted, MISSED))


def study_diversity(
    candidates: CandidateRelease, ranking: RankingRelease, held_out: HeldOutWatches, count: int
) -> dict[str, Any]:
    """The curve of a release on held-out watches, as DIVERSITY_FILE has it.

    Returns:
        `chosen`: the release's strength; `viewers`; `points`: a Point each.
    """
    lists = _served_lists(candidates, ranking, held_out, count)
    curve = diversity_curve(lists, ranking.table.vectors.astype(np.float32, copy=False))
    return {
        "chosen": ranking.manifest.score_weights.diversity,
        "viewers": len(lists.rows),
        "points": [asdict(point) for point in curve],
    }


def _served_lists(
    candidates: CandidateRelease, ranking: RankingRelease, held_out: HeldOutWatches, count: int
) -> ScoredLists:
    retrieval, ranker = CandidatePipeline(candidates, fail_open=False), RankingPipeline(ranking)
    shape = (len(held_out.viewers), RERANK_WINDOW)
    rows, scores = np.full(shape, -1, np.int64), np.zeros(shape, np.float32)
    console = Console(stderr=True)
    everyone = tracked(held_out.viewers, "asking the chain", console)
    for place, viewer in enumerate(everyone):
        found = retrieval.retrieve(CandidateQuery(viewer=viewer, count=count))
        if not len(found.keys):
            continue
        best = rank_all(ranker, viewer, found)
        # Whatever the release's own strength, by score alone.
        order = np.lexsort((best.keys, -best.scores))[:RERANK_WINDOW]
        rows[place, : len(order)] = best.rows[order]
        scores[place, : len(order)] = best.scores[order]
    return ScoredLists(rows, scores, held_out.targets)
