"""Id embeddings before training, from co-watches, and after it, from content.

Initially, videos that are watched close to each other are close. These embeddings are the leading
eigenvectors of the videos' positive pointwise mutual information, which word2vec with negative
sampling factorises (O. Levy and Y. Goldberg, Neural Word Embedding as Implicit Matrix
Factorization, 2014). On ml-1m, validation NDCG@10 was .131 after one epoch from them, and .129
after two from a random initialisation.

After training, those of videos with few watches, or none (unseen), are estimated from content. The
content part alone ranks unseen videos well among each other, but rarely above watched ones, since
its scores have less variance. Their id embedding is set to the sum of two terms: a ridge regression
from content to the id embeddings of watched videos, which predicts what the content part lacks; and
a step towards the mean viewer vector, so large that unseen videos hold EXPOSURE times their share
of viewers' top PLACES, since only exposure yields data on them. The id embedding of a video with w
watches is drawn to the same estimate, which weighs `estimate_weight` watches, so that its first
watches don't throw it back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from vireo.server.arrays import Float32Array, Int64Array
from vireo.training.retrieval.content import fit_ridge
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.model import TwoTower, vectors_of

STEPS = 10
"""Maximum steps between two watches that co-occur; k steps apart weigh 1/k."""
PAIRS = 20_000_000
"""Maximum pairs of watches that are counted, nearer ones first; bounds memory, at some 60 bytes
each."""
SPREAD = 0.02
"""Standard deviation of the values, as in a random initialisation."""
_ITERATIONS = 3
_EXTRA = 32
"""Vectors iterated beside those wanted, which then converge in fewer iterations."""

PLACES = 100
"""Length of the top of a viewer's list in which exposure is counted."""
EXPOSURE = 2.25
"""Target share of the top places, relative to the unseen videos' share of the catalogue."""
MAX_SHARE = 0.125
"""Maximum share of the top places, whatever the share of unseen videos."""
SCORES_AT_ONCE = 16_000_000
"""Scores (videos x viewers) computed at once; bounds memory."""
_VIEWERS = 512
"""Size of the sample of viewers."""
_LIFTS = 20
_MAX_LIFT = 16.0
"""Score that lifts a video above any other."""


def first_vectors(data: RetrievalData, dimension: int, seed: int) -> Float32Array | None:
    """Return vectors of all videos, float32[n, dimension]; None if there is too little data.

    `seed` is that of a rotation, which spreads the leading eigenvectors over all dimensions.
    """
    information = mutual_information(data)
    if dimension >= data.video_count or information.nnz == 0:
        return None
    random = np.random.default_rng(seed)
    # Subspace iteration: its time is known beforehand, which that of a Krylov method isn't.
    size = min(dimension + _EXTRA, data.video_count)
    basis = random.normal(size=(data.video_count, size)).astype(np.float32)
    for _ in range(_ITERATIONS):
        basis = np.linalg.qr(information @ basis)[0]
    values, turn = np.linalg.eigh(basis.T @ (information @ basis))
    leading = np.argsort(-np.abs(values))[:dimension]
    scaled = basis @ (turn[:, leading] * np.sqrt(np.abs(values[leading])))
    rotation = np.linalg.qr(random.normal(size=(dimension, dimension)))[0]
    spread = scaled.std()
    if not spread:
        return None
    turned: Float32Array = (scaled @ (rotation * (SPREAD / spread)).astype(np.float32)).astype(
        np.float32
    )
    return turned


def mutual_information(data: RetrievalData) -> sparse.csr_array:
    """Return max(0, log(p(i, j) / p(i) p(j))) of videos watched within STEPS.

    The matrix, float32[n, n], is sparse and symmetric.
    """
    near = _near_counts(data)
    marginal = np.asarray(near.sum(axis=1)).ravel()  # type: ignore[no-untyped-call]
    video = np.repeat(np.arange(data.video_count, dtype=np.int32), np.diff(near.indptr))
    expected = marginal[video] * marginal[near.indices] / max(marginal.sum(), 1.0)
    near.data = np.maximum(np.log(near.data / expected), 0.0)
    near.eliminate_zeros()  # type: ignore[no-untyped-call]
    return near


def _near_counts(data: RetrievalData) -> sparse.csr_array:
    shape = (data.video_count, data.video_count)
    steps = min(STEPS, max(1, PAIRS // max(data.watch_count, 1)))
    before, after, weights, count = [], [], [], 0
    for group in data.groups:
        own = data.train.take(np.array(group))
        rows, lengths = own.rows.astype(np.int32), np.diff(own.offsets)
        viewer = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        for step in range(1, steps + 1):
            same = viewer[:-step] == viewer[step:]
            before.append(rows[:-step][same])
            after.append(rows[step:][same])
            weights.append(np.full(len(before[-1]), 1 / step, np.float32))
            count += len(before[-1])
        if count >= PAIRS:
            break
    pairs = (np.concatenate(before), np.concatenate(after))
    counts = sparse.csr_array((np.concatenate(weights), pairs), shape=shape)  # type: ignore[no-untyped-call]
    symmetric: sparse.csr_array = sparse.csr_array(counts + counts.T)  # type: ignore[no-untyped-call]
    return symmetric


@torch.no_grad()
def fill_unseen(model: TwoTower, data: RetrievalData) -> None:
    """Give the videos with few watches in the train part, or none, their estimates, in place.

    Only the id embeddings of unwatched videos change: the estimates of the others are added by
    the model. Videos without content are unchanged.
    """
    counts, described = data.watch_counts, (data.content > 0).any(1)
    if not counts.any() or not described.any():
        return
    model.eval()
    tower, ids = model.video_tower, model.video_tower.id_embedding.weight
    known = ids[torch.from_numpy(counts > 0)].double().numpy()
    tower.ridge = fit_ridge(data.content, counts, known)
    # Videos without content are indistinguishable, so exposing them wouldn't be informative.
    unseen = torch.from_numpy((counts == 0) & described)
    weight = counts / np.maximum(counts + model.config.estimate_weight * described, 1)
    tower.watched.copy_(torch.from_numpy(weight)[:, None])
    tower.estimate = torch.from_numpy(tower.ridge.of(data.content)).float()
    tower.estimate *= (1 - tower.watched) * torch.from_numpy(described)[:, None]
    if unseen.any() and data.last_watches:
        states, watched = _viewers(model, data)
        mean = states.mean(0)
        step = mean / mean.square().sum().clamp(min=1e-12)
        share = min(EXPOSURE * float(unseen.float().mean()), MAX_SHARE)
        vectors = model.video_vectors()
        known_best, unseen_best = (
            best_scores(states, vectors, some, watched) for some in (~unseen, unseen)
        )
        lift = fair_lift(known_best, unseen_best, (states @ step)[:, None], share)
        tower.unseen_step.copy_(lift * step)
        tower.estimate[unseen] += tower.unseen_step
    ids[unseen] = tower.estimate[unseen]


def best_scores(
    states: Tensor,
    vectors: Tensor,
    some: Tensor,
    watched: Sequence[Int64Array],
) -> Tensor:
    """Return the PLACES best scores of some videos for each viewer, float32[v, at most PLACES].

    Args:
        states: viewers' vectors, float32[v, d].
        vectors: vectors of all videos, float32[n, d].
        some: mask of the videos that count, bool[n].
        watched: rows that each viewer watched, whose scores are minus infinity.
    """
    size = max(1, SCORES_AT_ONCE // len(vectors))
    parts = []
    for start in range(0, len(states), size):
        scores = states[start : start + size] @ vectors.T
        scores[:, ~some] = -torch.inf
        for place, rows in enumerate(watched[start : start + size]):
            scores[place, torch.from_numpy(rows)] = -torch.inf
        parts.append(scores.topk(min(PLACES, len(vectors)), dim=1).values)
    return torch.cat(parts)


def fair_lift(fixed: Tensor, lifted: Tensor, slopes: Tensor, share: float) -> float:
    """Return the minimum lift with which some videos hold a share of viewers' top places.

    A lift adds lift * slope to all of a viewer's lifted scores, so that only the best of them
    matter.

    Args:
        fixed: the best scores of the other videos, float32[v, p], padded with minus infinity.
        lifted: the best scores of the videos to lift, float32[v, p].
        slopes: each viewer's slope, float32[v, 1].
        share: mean share of a viewer's top p places that the lifted videos must hold.

    Returns:
        From 0 to _MAX_LIFT.
    """
    places = fixed.shape[1]

    def held(lift: float) -> float:
        best = torch.cat([fixed, lifted + lift * slopes], dim=1).topk(places, dim=1)
        of_lifted = (best.indices >= places) & best.values.isfinite()
        return float(of_lifted.float().mean())

    if held(0.0) >= share:
        return 0.0
    low, high = 0.0, _MAX_LIFT
    for _ in range(_LIFTS):
        middle = (low + high) / 2
        low, high = (middle, high) if held(middle) < share else (low, middle)
    return high


def _viewers(model: TwoTower, data: RetrievalData) -> tuple[Tensor, Sequence[Int64Array]]:
    """Return vectors of some viewers at their last watch, float32[v, d], and rows they watched."""
    asked = data.last_watches[:: -(-len(data.last_watches) // _VIEWERS)]
    return vectors_of(model, data, asked), [held_out.watched for held_out in asked]
