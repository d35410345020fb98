"""Gives videos that nobody has watched an id's part, guessed from their content.

The content part alone ranks such videos well among each other, but hardly ever above those that
are known: it says less, so its scores spread less. Two things are added after training, as if
they were the video's id embedding. A ridge regression from content to the id embeddings of the
watched videos says what their ids know and the content part doesn't. A step towards where all
viewers are lifts them until they hold EXPOSURE times their share of viewers' best PLACES: what
is shown to nobody is learnt of from nobody.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from server.features.tower_inputs import tower_inputs
from training.retrieval.bags import weighted_bags
from training.retrieval.data import RetrievalData
from training.retrieval.model import TwoTower
from training.retrieval.towers import readable, viewer_vectors

RIDGE = 3.0
"""Pull of the regression to 0, in videos of weight 1."""
TOKENS = 4096
"""The regression reads the commonest tokens: its time grows with the cube of their number."""
PLACES = 100
"""How far down a viewer's list a place counts."""
EXPOSURE = 1.5
"""Times the share of videos that are unseen: places to find out what they are worth."""
MOST_SHARE = 0.08
"""Of the places, however many of the videos are unseen."""
SCORES_AT_ONCE = 16_000_000
"""Bounds the memory of scores, videos x viewers."""
_VIEWERS = 512
"""So many viewers say where viewers are."""
_STEPS = 20
_FARTHEST = 16.0
"""Score that lifts a video above any other."""

Float64Array = npt.NDArray[np.float64]


@torch.no_grad()
def fill_unseen(model: TwoTower, data: RetrievalData) -> None:
    """Fills in the id embeddings of the videos without a watch in the train part, in place.

    The model answers for them as for any other from then on. Videos without content stay as
    they are.
    """
    counts = data.watch_counts()
    # Videos without content can't be told apart: no place of theirs would be a good one.
    unseen = torch.from_numpy((counts == 0) & (data.content > 0).any(1))
    if not unseen.any() or not counts.any():
        return
    model.eval()
    tower = model.video_tower
    known = tower.id_embedding.weight[torch.from_numpy(counts > 0)].double().numpy()
    guessed = torch.from_numpy(ridge(data.content, counts, known).astype(np.float32))
    tower.id_embedding.weight[unseen] = guessed[unseen[torch.from_numpy(counts == 0)]]
    tower.watched[unseen] = 1.0
    if not data.last_watches:
        return
    states, watched = _viewers(model, data)
    mean = states.mean(0)
    step = mean / mean.square().sum().clamp(min=1e-12)
    share = min(EXPOSURE * float(unseen.float().mean()), MOST_SHARE)
    vectors = model.video_vectors()
    known_best, unseen_best = (
        best_scores(states, vectors, some, watched) for some in (~unseen, unseen)
    )
    lift = fair_lift(known_best, unseen_best, (states @ step)[:, None], share)
    tower.id_embedding.weight[unseen] += lift * step


def best_scores(
    states: Tensor,
    vectors: Tensor,
    some: Tensor,
    watched: Sequence[npt.NDArray[np.int64]],
) -> Tensor:
    """The PLACES best scores of some videos for each viewer, float32[v, at most PLACES].

    Args:
        states: of the viewers, float32[v, d].
        vectors: of all videos, float32[n, d].
        some: which of them, bool[n].
        watched: rows that each viewer watched, whose scores don't count: minus infinity.
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


def ridge(
    content: npt.NDArray[np.integer], counts: npt.NDArray[np.int64], known: Float64Array
) -> Float64Array:
    """Embeddings of the videos without watches, from those of the others, float64[u, d].

    Args:
        content: token ids, 0-padded, the commonest the smallest, int[n, c].
        counts: watches of each video, int64[n].
        known: embeddings of the videos with watches, float64[n - u, d]; one weighs by the
            logarithm of its watches.
    """
    bags = weighted_bags(np.where(content <= TOKENS, content, 0))
    seen = counts > 0
    weights = np.log1p(counts[seen])
    mean = weights @ known / weights.sum()
    read = bags[seen]
    weighted = read.T.multiply(weights).tocsr()
    gram = (weighted @ read).toarray()
    gram[np.diag_indices(len(gram))] += RIDGE
    effects = np.linalg.solve(gram, weighted @ (known - mean))
    return np.asarray(mean + bags[~seen] @ effects, np.float64)


def fair_lift(fixed: Tensor, lifted: Tensor, slopes: Tensor, share: float) -> float:
    """The least that, times a viewer's slope, must be added to some videos' scores.

    A lift moves all of a viewer's lifted scores alike, so that only the best can matter.

    Args:
        fixed: the best scores of the other videos, float32[v, p], the best first; minus infinity
            where there are fewer.
        lifted: those of the videos to lift, float32[v, p].
        slopes: float32[v, 1].
        share: of each viewer's p best that the lifted must hold on average.

    Returns:
        0 where they hold it already; at most _FARTHEST.
    """
    places = fixed.shape[1]

    def held(lift: float) -> float:
        best = torch.cat([fixed, lifted + lift * slopes], dim=1).topk(places, dim=1)
        of_lifted = (best.indices >= places) & best.values.isfinite()
        return float(of_lifted.float().mean())

    if held(0.0) >= share:
        return 0.0
    low, high = 0.0, _FARTHEST
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if held(middle) < share else (low, middle)
    return high


def _viewers(
    model: TwoTower, data: RetrievalData
) -> tuple[Tensor, Sequence[npt.NDArray[np.int64]]]:
    """Vectors of some viewers at their last watch, float32[v, d], and what they watched."""
    asked = data.last_watches[:: -(-len(data.last_watches) // _VIEWERS)]
    viewers = [held_out.viewer for held_out in asked]
    inputs = tower_inputs(viewers, data.video_rows(), data.vocabulary, model.config.history_limit)
    vectors = viewer_vectors(model, readable(model.video_vectors()), inputs)
    return vectors, [held_out.watched for held_out in asked]
