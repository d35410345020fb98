"""Quality of the towers for viewers and videos that they have never seen.

Towers are trained for the study, without a tenth of the viewers and a twentieth of the videos; the
viewer tower's order is measured, without ranker. No watch of the test part is used, so the study
may choose settings.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from server.arrays import Float32Array, Float64Array
from training.evaluation.baselines.past import Past
from training.evaluation.baselines.popularity import Popularity
from training.evaluation.cold_start.cases import Cases, ColdSets, cold_sets
from training.evaluation.cold_start.content_knn import ContentKnn
from training.evaluation.comparison import means
from training.evaluation.full_ranking import full_ranking
from training.evaluation.metrics import gains
from training.retrieval.config import RetrievalConfig
from training.retrieval.ensemble import train_towers
from training.retrieval.towers import Towers
from training.retrieval.validation import SCORES_AT_ONCE, viewer_scores

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
    """Train the study's towers and measure them.

    Args:
        watches: the split.
        videos: the catalogue.
        viewers: profiles of the viewers.
        config: settings of the towers.
        checkpoints: folder for their checkpoints.
        console: where progress is shown.
    """
    sets = cold_sets(watches, videos, viewers)
    model = train_towers(sets.data, config, checkpoints, console)
    return measure_cold_start(model, sets)


def measure_cold_start(model: Towers, sets: ColdSets) -> dict[str, object]:
    """Measure the towers and simpler systems on the cases."""
    data = sets.data
    knn = ContentKnn(data)
    past = [data.watched(viewer) for viewer in range(data.viewer_count)]
    popularity = Popularity(Past(past, data.video_count))
    systems: dict[str, Scorer] = {
        "vireo": lambda cases: viewer_scores(model, data, list(cases.viewers)),
        "popularity": lambda cases: popularity.scores(cases.watched),
        "content_knn": lambda cases: knn.scores(cases.known),
    }
    measured = partial(_measured, systems=systems, videos=data.video_count)
    return {
        "order": "two_tower",
        "trained_on": {
            "viewers": data.viewer_count,
            "videos": int((data.watch_counts() > 0).sum()),
            "watches": data.watch_count,
        },
        "viewers": {name: measured(cases) for name, cases in sets.new_viewers.items()},
        "late_viewers": {name: measured(cases) for name, cases in sets.late_viewers.items()},
        "videos": {"videos": int(sets.unseen.sum()), **measured(sets.new_videos)},
    }


def _measured(cases: Cases, systems: dict[str, Scorer], videos: int) -> dict[str, object]:
    size = max(1, min(256, SCORES_AT_ONCE // videos))
    measured: dict[str, Measures] = {}
    for name, score in systems.items():
        ranks = [
            full_ranking(score(batch), batch.watched, batch.targets)
            for batch in cases.batches(size)
        ]
        places = np.concatenate([np.empty(0, np.int64), *ranks])
        measured[name] = means(places) | {"ndcg_10_error": _error(gains(places, 10))}
    measured["random"] = random_measures([videos - len(rows) for rows in cases.watched])
    return {"cases": len(cases), "systems": measured}


def _error(values: Float64Array) -> float:
    return float(values.std() / len(values) ** 0.5) if len(values) else 0.0


def random_measures(choices: list[int]) -> Measures:
    """Return the expected measures of a random order, given each case's number of candidates."""
    sizes = np.maximum(np.array(choices, np.float64), 1)
    gain = float((1 / np.log2(np.arange(10) + 2.0)).sum())
    chance = float((1 / sizes).mean()) if len(sizes) else 0.0
    return {
        "hr_10": min(1.0, 10 * chance),
        "ndcg_10": gain * chance,
        "recall_100": float(np.minimum(1, 100 / sizes).mean()) if len(sizes) else 0.0,
    }
