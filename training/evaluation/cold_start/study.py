"""How well the towers do with viewers and videos that they have never seen.

Towers are trained for the study, on a set without a tenth of the viewers and a twentieth of
the videos; the viewer tower's order is what is measured, without ranker. No watch of the test
part is touched: the study may be used to choose settings.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.console import Console

from training.evaluation.baselines.past import Past
from training.evaluation.baselines.popularity import Popularity
from training.evaluation.cold_start.cases import Cases, ColdSets, cold_sets
from training.evaluation.cold_start.content_knn import ContentKnn
from training.evaluation.full_ranking import full_ranking
from training.evaluation.metrics import gains, hit_rate, ndcg, recall
from training.retrieval.config import RetrievalConfig
from training.retrieval.ensemble import train_towers
from training.retrieval.towers import Towers
from training.retrieval.validation import SCORES_AT_ONCE, viewer_scores

COLD_START = "cold_start.json"

Float32Array = npt.NDArray[np.float32]
Measures = dict[str, float]
Scorer = Callable[[Cases], Float32Array]


def study_cold_start(
    watches: pd.DataFrame,
    videos: pd.DataFrame,
    viewers: pd.DataFrame,
    config: RetrievalConfig,
    checkpoints: Path,
    console: Console | None = None,
) -> dict[str, object]:
    """Trains the study's towers and measures them: what COLD_START holds.

    Args:
        watches: the split.
        videos: `videos.parquet`.
        viewers: `viewers.parquet`.
        config: how the towers are trained.
        checkpoints: folder of their checkpoints.
        console: where progress is shown.
    """
    sets = cold_sets(watches, videos, viewers)
    model = train_towers(sets.data, config, checkpoints, console)
    return measure_cold_start(model, sets)


def measure_cold_start(model: Towers, sets: ColdSets) -> dict[str, object]:
    """What the towers and simpler systems reach on the cases."""
    data = sets.data
    knn = ContentKnn(data)
    past = [data.watched(viewer) for viewer in range(data.viewer_count)]
    popularity = Popularity(Past(past, data.video_count))
    systems: dict[str, Scorer] = {
        "vireo": lambda cases: viewer_scores(model, data, list(cases.viewers)),
        "popularity": lambda cases: popularity.scores(cases.watched),
        "content_knn": lambda cases: knn.scores(cases.known),
    }
    return {
        "order": "two_tower",
        "trained_on": {
            "viewers": data.viewer_count,
            "videos": int((data.watch_counts() > 0).sum()),
            "watches": data.watch_count,
        },
        "viewers": {
            name: _measured(cases, systems, data.video_count)
            for name, cases in sets.new_viewers.items()
        },
        "late_viewers": {
            name: _measured(cases, systems, data.video_count)
            for name, cases in sets.late_viewers.items()
        },
        "videos": {
            "videos": int(sets.unseen.sum()),
            **_measured(sets.new_videos, systems, data.video_count),
        },
    }


def _measured(cases: Cases, systems: dict[str, Scorer], videos: int) -> dict[str, object]:
    """Measures by system, and of how many cases."""
    size = max(1, min(256, SCORES_AT_ONCE // videos))
    measured: dict[str, Measures] = {}
    for name, score in systems.items():
        ranks = [
            full_ranking(score(batch), batch.watched, batch.targets)
            for batch in cases.batches(size)
        ]
        measured[name] = measures(np.concatenate([np.empty(0, np.int64), *ranks]))
    measured["random"] = random_measures([videos - len(rows) for rows in cases.watched])
    return {"cases": len(cases), "systems": measured}


def measures(ranks: npt.NDArray[np.int64]) -> Measures:
    """HR@10, NDCG@10 and Recall@100 of 0-based ranks, with the standard error of NDCG@10."""
    own = gains(ranks, 10)
    return {
        "hr_10": hit_rate(ranks, 10),
        "ndcg_10": ndcg(ranks, 10),
        "recall_100": recall(ranks, 100),
        "ndcg_10_error": float(own.std() / len(own) ** 0.5) if len(own) else 0.0,
    }


def random_measures(choices: list[int]) -> Measures:
    """What a random order reaches on average, given how many videos each case chooses from."""
    sizes = np.maximum(np.array(choices, np.float64), 1)
    gain = float((1 / np.log2(np.arange(10) + 2.0)).sum())
    chance = float((1 / sizes).mean()) if len(sizes) else 0.0
    return {
        "hr_10": min(1.0, 10 * chance),
        "ndcg_10": gain * chance,
        "recall_100": float(np.minimum(1, 100 / sizes).mean()) if len(sizes) else 0.0,
    }
