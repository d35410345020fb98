"""What it is worth to the towers to read how long ago a viewer's last watch was.

    python -m bench.asked_gap --data ml-100k --profile demo --seeds 0 1 2

One pair of towers is trained for each seed with and without `asked_gap`, and ranks each viewer's
held-out watch among all unwatched videos at the moment of that watch, without other sources and
without a ranker. Viewers who come back after an hour or more are measured apart: most ratings of
MovieLens were given seconds after the one before, in sessions, which sites don't have.
A training that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console

from bench.seeds import REPORT, mean
from server.features.viewer import ViewerFeatures
from server.home import Home
from training.data.dataset import load_dataset
from training.data.split import split_watches
from training.evaluation.comparison import PER_VIEWER
from training.evaluation.full_ranking import full_ranking
from training.profile import load_profile
from training.retrieval.data import RetrievalData
from training.retrieval.towers import Towers
from training.retrieval.train import train_retrieval
from training.retrieval.validation import SCORES_AT_ONCE, viewer_scores

BACK_SECONDS = 3600
"""Who watches nothing for so long has come back."""
_VARIANTS = {"with": True, "without": False}

Groups = Mapping[str, npt.NDArray[np.bool_]]
"""By name, which viewers are in it, bool[v]."""
Measures = dict[str, dict[str, float]]
"""By group, then measure."""


def main() -> None:
    """Runs from the command line; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", default="ml-100k", help="name of an imported data set")
    parser.add_argument("--profile", default="demo", help="settings of the training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=REPORT, help="folder of the result")
    given = parser.parse_args()
    console, home = Console(stderr=True, highlight=False), Home.current()
    config = replace(load_profile(given.profile).retrieval, members=1, max_minutes=None)
    train, test = datasets(home, given.data)
    groups = groups_of([held_out.viewer for held_out in test.validation])
    results = []
    for seed in given.seeds:
        found: dict[str, Measures] = {}
        for name, asked_gap in _VARIANTS.items():
            console.rule(f"seed {seed}, {name} the time since the last watch")
            folder = home.root / "bench" / "asked_gap" / f"{given.data}-{given.profile}"
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
    path = given.out / f"asked-gap-{given.data}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
    console.print(f"result: {path}", soft_wrap=True)


def datasets(home: Home, name: str) -> tuple[RetrievalData, RetrievalData]:
    """What the towers learn, and the same with the test watches in validation's place."""
    tables = load_dataset(home, name)
    watches = split_watches(tables.interactions, "last")
    moved = watches["part"].astype(str).map({"test": "validation"}).fillna("train")
    return (
        RetrievalData.build(watches, tables.videos, tables.viewers),
        RetrievalData.build(watches.assign(part=moved), tables.videos, tables.viewers),
    )


def groups_of(viewers: Sequence[ViewerFeatures]) -> Groups:
    """All viewers, those who go on watching, and those who have come back."""
    gaps = [viewer.asked_at - viewer.history_times.max(initial=0) for viewer in viewers]
    back = np.array(gaps, np.int64) >= BACK_SECONDS
    return {"all": np.ones(len(back), np.bool_), "within_an_hour": ~back, "after_an_hour": back}


def ranks_of(towers: Towers, test: RetrievalData) -> npt.NDArray[np.int64]:
    """0-based rank of each viewer's held-out video, int64[v]."""
    size = max(1, min(256, SCORES_AT_ONCE // test.video_count))
    ranks = []
    for start in range(0, len(test.validation), size):
        part = test.validation[start : start + size]
        scores = viewer_scores(towers, test, [held_out.viewer for held_out in part])
        targets = np.array([held_out.target for held_out in part])
        ranks.append(full_ranking(scores, [held_out.watched for held_out in part], targets))
    return np.concatenate(ranks)


def measured(ranks: npt.NDArray[np.int64], groups: Groups) -> Measures:
    """The measures of each group that has a viewer."""
    return {
        group: {name: float(values(ranks[inside]).mean()) for name, values in PER_VIEWER.items()}
        for group, inside in groups.items()
        if inside.any()
    }


def summary(results: Sequence[Mapping[str, Measures]]) -> dict[str, object]:
    """Means over the seeds with their intervals, by variant, group and measure."""
    first = results[0]
    return {
        variant: {
            group: {
                name: mean([result[variant][group][name] for result in results]) for name in values
            }
            for group, values in groups.items()
        }
        for variant, groups in first.items()
    }


if __name__ == "__main__":
    main()
