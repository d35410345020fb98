"""The gain of the towers from the time since a viewer's last watch.

    python -m bench.asked_gap --data ml-100k --profile demo --seeds 0 1 2

One pair of towers is trained for each seed with and without `asked_gap`, which the ages of earlier
watches need, and ranks each viewer's held-out watch among all unwatched videos at the moment of
that watch, without other sources and without a ranker. Viewers who come back after an hour or more
are measured apart: most ratings of MovieLens were given seconds after the one before. A training
that was interrupted goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from rich.console import Console

from bench.seeds import arguments, means, write
from server.features.viewer import ViewerFeatures
from server.home import Home
from training.data.dataset import load_dataset
from training.data.split import split_watches
from training.evaluation.comparison import PER_VIEWER
from training.evaluation.full_ranking import full_ranking
from training.profile import load_profile
from training.retrieval.data import RetrievalData
from training.retrieval.model import TwoTower
from training.retrieval.train import train_retrieval
from training.retrieval.validation import SCORES_AT_ONCE, viewer_scores

BACK_SECONDS = 3600
"""Seconds without a watch after which a viewer has come back."""
_VARIANTS = {"with": True, "without": False}

Groups = Mapping[str, npt.NDArray[np.bool_]]
"""Viewers of each group by its name, bool[v]."""
Measures = dict[str, dict[str, float]]
"""By group, then measure."""


def main() -> None:
    """Run from the command line; see the module."""
    given = arguments(__doc__)
    console, home = Console(stderr=True, highlight=False), Home.current()
    config = replace(load_profile(given.profile).retrieval, max_minutes=None)
    train, test = datasets(home, given.data)
    groups = groups_of([held_out.viewer for held_out in test.validation])
    folder = home.root / "bench" / "asked_gap" / f"{given.data}-{given.profile}"
    results = []
    for seed in given.seeds:
        found: dict[str, Measures] = {}
        for name, asked_gap in _VARIANTS.items():
            console.rule(f"seed {seed}, {name} the time since the last watch")
            wanted = replace(config, seed=seed, asked_gap=asked_gap)
            towers = train_retrieval(train, wanted, folder / f"{seed}-{name}", console)
            found[name] = measured(ranks_of(towers, test), groups)
        results.append({"seed": seed, **found})
    document = {
        "data": given.data,
        "profile": given.profile,
        "viewers": {name: int(inside.sum()) for name, inside in groups.items()},
        "seeds": results,
        "mean": summary([{name: result[name] for name in _VARIANTS} for result in results]),
    }
    write("asked-gap", given, document, console)


def datasets(home: Home, name: str) -> tuple[RetrievalData, RetrievalData]:
    """Return the training data, and the same with the test watches in place of validation's."""
    tables = load_dataset(home, name)
    watches = split_watches(tables.interactions, "last")
    moved = watches["part"].astype(str).map({"test": "validation"}).fillna("train")
    return (
        RetrievalData.build(watches, tables.videos, tables.viewers),
        RetrievalData.build(watches.assign(part=moved), tables.videos, tables.viewers),
    )


def groups_of(viewers: Sequence[ViewerFeatures]) -> Groups:
    """Return groups of all viewers, those who go on watching, and those who have come back."""
    gaps = [viewer.asked_at - viewer.history_times.max(initial=0) for viewer in viewers]
    back = np.array(gaps, np.int64) >= BACK_SECONDS
    return {"all": np.ones(len(back), np.bool_), "within_an_hour": ~back, "after_an_hour": back}


def ranks_of(towers: TwoTower, test: RetrievalData) -> npt.NDArray[np.int64]:
    """Return the 0-based rank of each viewer's held-out video, int64[v]."""
    size = max(1, min(256, SCORES_AT_ONCE // test.video_count))
    ranks = []
    for start in range(0, len(test.validation), size):
        part = test.validation[start : start + size]
        scores = viewer_scores(towers, test, [held_out.viewer for held_out in part])
        targets = np.array([held_out.target for held_out in part])
        ranks.append(full_ranking(scores, [held_out.watched for held_out in part], targets))
    return np.concatenate(ranks)


def measured(ranks: npt.NDArray[np.int64], groups: Groups) -> Measures:
    """Return the measures of each group that has a viewer."""
    return {
        group: {name: float(values(ranks[inside]).mean()) for name, values in PER_VIEWER.items()}
        for group, inside in groups.items()
        if inside.any()
    }


def summary(results: Sequence[Mapping[str, Measures]]) -> dict[str, object]:
    """Return means over seeds with their intervals, by variant, group and measure."""
    return {
        variant: {group: means([result[variant][group] for result in results]) for group in groups}
        for variant, groups in results[0].items()
    }


if __name__ == "__main__":
    main()
