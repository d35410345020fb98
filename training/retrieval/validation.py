"""Validation by the rank of each viewer's next watch among all videos not watched before.

Videos that weren't published by then come last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from rich.console import Console

from vireo.server.arrays import Float32Array, Int64Array
from vireo.server.errors import VireoError
from vireo.training.metrics import full_ranking, gains, hits, paired_p
from vireo.training.retrieval.data import HeldOut, RetrievalData
from vireo.training.retrieval.model import TwoTower, readable, vectors_of

SCORES_AT_ONCE = 8_000_000
"""Scores (videos x viewers) computed at once; bounds memory."""
SCORES = 2_000_000_000
"""Maximum scores (videos x viewers) of a validation; a large catalogue has fewer viewers."""
QUERIES = 500
"""Maximum viewers that an index is measured with."""
Scorer = Callable[[Sequence[HeldOut]], Float32Array]
"""Returns the scores of every video for some viewers, float32[v, n]."""
_NOISE = 0.05
"""Probability of a difference from popularity that counts as noise."""


class WorseThanPopularityError(VireoError):
    """The towers are worse than a list of the most watched videos."""


@torch.inference_mode()
def tower_scorer(model: TwoTower, data: RetrievalData) -> Scorer:
    """Return the retrieval scores as a function of the viewers."""
    videos = model.eval().video_vectors()
    table = readable(videos)

    @torch.inference_mode()
    def scores(part: Sequence[HeldOut]) -> Float32Array:
        return np.asarray((vectors_of(model, data, part, table) @ videos.T).numpy(), np.float32)

    return scores


@torch.inference_mode()
def viewer_queries(model: TwoTower, data: RetrievalData) -> Float32Array:
    """Return vectors of at most QUERIES viewers at their last watch, float32[v, d]."""
    step = max(1, len(data.last_watches) // QUERIES)
    asked = data.last_watches[::step][:QUERIES]
    if not asked:
        return np.empty((0, model.config.dimension), np.float32)
    return np.asarray(vectors_of(model.eval(), data, asked).numpy(), np.float32)


def validation_ranks(model: TwoTower, data: RetrievalData) -> Int64Array:
    """Return the rank of each viewer's last validation watch given all before it, int64[v].

    Viewers are sampled so that about SCORES scores are computed.
    """
    return _ranks(data, tower_scorer(model, data))


def check_beats_popularity(
    model: TwoTower, data: RetrievalData, console: Console, *, force: bool = False
) -> None:
    """Compare the towers with popularity on each validation viewer, and print it if they are worse.

    Raises:
        WorseThanPopularityError: they are worse beyond the noise, unless `force`.
    """
    counts = data.watch_counts.astype(np.float32)
    popular = _ranks(data, lambda part: np.broadcast_to(counts, (len(part), len(counts))))
    own = validation_ranks(model, data)
    for name, measure, k in (("NDCG@10", gains, 10), ("Recall@100", hits, 100)):
        towers, popularity = measure(own, k), measure(popular, k)
        if towers.sum() >= popularity.sum():  # Or there is no viewer.
            continue
        worse = (
            f"the towers' {name} is {towers.mean():.3f} on {len(own):,} viewers of validation, "
            f"that of the most watched videos {popularity.mean():.3f}"
        )
        if force or paired_p((towers - popularity)[:, None])[0] >= _NOISE:
            console.print(f"warning: {worse}", soft_wrap=True)
            continue
        raise WorseThanPopularityError(
            f"{worse}: check the ids and times of the data, train longer (a profile with more "
            "epochs, --profile mine.toml), or release it all the same with --force"
        )


def _ranks(data: RetrievalData, scores: Scorer) -> Int64Array:
    step = -(-len(data.validation) * data.video_count // SCORES) or 1
    # By length, since a batch is padded to its longest history.
    held_out = sorted(data.validation[::step], key=lambda one: len(one.watched))
    return ranks_of(held_out, scores, data.published_at)


def ranks_of(held_out: Sequence[HeldOut], scores: Scorer, published_at: Int64Array) -> Int64Array:
    """Return the rank of each held-out watch among the videos not watched before, int64[v].

    `published_at` is as in RetrievalData, int64[n].
    """
    size = max(1, min(256, SCORES_AT_ONCE // len(published_at)))
    ranks = [np.empty(0, np.int64)]
    for start in range(0, len(held_out), size):
        part = held_out[start : start + size]
        targets = np.array([one.target for one in part])
        later = published_at > np.array([one.viewer.asked_at for one in part])[:, None]
        later[np.arange(len(part)), targets] = False
        own = np.where(later, -np.inf, scores(part))
        ranks.append(full_ranking(own, [one.watched for one in part], targets))
    return np.concatenate(ranks)
