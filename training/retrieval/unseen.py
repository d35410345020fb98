"""Estimate the id embeddings of videos with few watches, or none (unseen), from their content.

The content part alone ranks unseen videos well among each other, but rarely above watched ones,
since its scores have less variance. Their id embedding is set after training to the sum of two
terms: a ridge regression from content to the id embeddings of watched videos, which predicts what
the content part lacks; and a step towards the mean viewer vector, so large that unseen videos hold
EXPOSURE times their share of viewers' top PLACES, since only exposure yields data on them.

The id embedding of a video with w watches is drawn to the same estimate, which weighs
`estimate_weight` watches, so that its first watches don't throw it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vireo.server.arrays import Float64Array, Int64Array
from vireo.training.retrieval.content import token_weights, weighted_bags
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.model import TwoTower
from vireo.training.retrieval.towers import readable, viewer_vectors

RIDGE = 3.0
"""L2 regularisation of the regression, in videos of weight 1."""
TOKENS = 4096
"""Most frequent tokens that the regression reads: its time is cubic in their number."""
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
_STEPS = 20
_MAX_LIFT = 16.0
"""Score that lifts a video above any other."""


@torch.no_grad()
def fill_unseen(model: TwoTower, data: RetrievalData) -> None:
    """Give the videos with few watches in the train part, or none, their estimates, in place.

    Only the id embeddings of unwatched videos change: the estimates of the others are added by
    the model. Videos without content are unchanged.
    """
    counts, described = data.watch_counts(), (data.content > 0).any(1)
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


@dataclass(frozen=True)
class Ridge:
    """A linear map from content to id embeddings."""

    mean: Float64Array
    """float64[d]."""
    effects: Float64Array
    """What each token adds, by its weight in the bag, float64[t + 1, d]."""
    weights: Float64Array
    """Each token's weight before a bag is brought to length 1, float64[t + 1]."""

    def of(self, content: npt.NDArray[np.integer]) -> Float64Array:
        """Return the embeddings of the catalogue that it was fitted to, float64[n, d].

        `content` is as in `fit_ridge`, int[n, c].
        """
        found: Float64Array = weighted_bags(_frequent(content)) @ self.effects
        found += self.mean
        return found


def fit_ridge(content: npt.NDArray[np.integer], counts: Int64Array, known: Float64Array) -> Ridge:
    """Fit the embeddings of the videos with watches.

    Args:
        content: token ids of each video, 0-padded, numbered from the most frequent, int[n, c].
        counts: watches of each video, int64[n].
        known: embeddings of the videos with watches, float64[m, d], weighted in the regression by
            the logarithm of the watches.
    """
    bags = weighted_bags(_frequent(content))
    seen = counts > 0
    weights = np.log1p(counts[seen])
    mean = weights @ known / weights.sum()
    read = bags[seen]
    weighted = read.T.multiply(weights).tocsr()
    gram = (weighted @ read).toarray()
    gram[np.diag_indices(len(gram))] += RIDGE
    effects = np.linalg.solve(gram, weighted @ (known - mean))
    return Ridge(mean, np.asarray(effects, np.float64), token_weights(_frequent(content)))


def _frequent(content: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    return np.where(content <= TOKENS, content, 0)


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
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if held(middle) < share else (low, middle)
    return high


def _viewers(model: TwoTower, data: RetrievalData) -> tuple[Tensor, Sequence[Int64Array]]:
    """Return vectors of some viewers at their last watch, float32[v, d], and rows they watched."""
    asked = data.last_watches[:: -(-len(data.last_watches) // _VIEWERS)]
    viewers = [held_out.viewer for held_out in asked]
    inputs = data.inputs(viewers, model.config.history_limit)
    vectors = viewer_vectors(model, readable(model.video_vectors()), inputs)
    return vectors, [held_out.watched for held_out in asked]
