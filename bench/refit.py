"""The effect of the second fit: the same step one watch earlier, which can be measured.

    python -m bench.refit --data ml-100k --profile demo --seeds 0 1 2

It reads the measured fits that `python -m bench.seeds` has left for these seeds. The towers of each
train on with the validation watches too, the tables are counted anew, the ranker stays, and both
releases rank the held-out test watches, which neither has seen. `gain` is the paired difference,
with an interval over seeds and viewers. Videos whose only watches were held out from the first fit
are counted apart: `new_recall_100` is the recall of watches of them, and `new_share` their share of
all lists' first 100 places.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scipy.stats import sem

from bench.seeds import arguments, means, seed_home, write
from vireo.server.arrays import Int64Array
from vireo.server.home import Home
from vireo.server.recommend.ranking.release import RankingRelease
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases.manifest import Manifest
from vireo.training.comparison import PER_VIEWER
from vireo.training.data.dataset import Dataset, load_dataset
from vireo.training.evaluation.chain import ranker_measures, run_chain
from vireo.training.evaluation.systems import of_lists
from vireo.training.evaluation.viewers import TestBed, features_before_test
from vireo.training.features.publication import published_of
from vireo.training.features.watches import load_watches
from vireo.training.fit import refit_config
from vireo.training.profile import load_profile
from vireo.training.release.stage import Origin, stage_retrieval, take_ranker
from vireo.training.retrieval.config import RetrievalConfig
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.train import train_retrieval
from vireo.training.run import Run

_COUNTED = ("hr_10", "ndcg_10", "recall_100")
_PROBABILITIES = ("watch_predicted_over_observed", "like_predicted_over_observed")
_VARIANTS = ("first_fit", "gone_on")
_LEARNED = ("train", "validation")
"""What the second fit learns from; the first one learns from the former."""


def main() -> None:
    """Run from the command line; see the module."""
    given = arguments(__doc__)
    console, home = Console(stderr=True, highlight=False), Home.current()
    tables = load_dataset(home, given.data)
    config = refit_config(load_profile(given.profile).retrieval)
    results: list[dict[str, Any]] = []
    gains: list[dict[str, float]] = []
    errors: list[dict[str, float]] = []
    for seed in given.seeds:
        console.rule(f"seed {seed} of {given.profile} on {given.data}")
        measuring = seed_home(home, given.data, given.profile, seed).measuring
        folder = home.root / "bench" / "refit" / f"{given.data}-{given.profile}" / str(seed)
        release = gone_on(measuring, tables, replace(config, seed=seed), folder, console)
        staged = measuring.staged_release(given.data)
        measured = [measures(measuring, given.data, each) for each in (staged, release)]
        changes = {name: of(measured[1][1]) - of(measured[0][1]) for name, of in PER_VIEWER.items()}
        gains.append({name: float(each.mean()) for name, each in changes.items()})
        errors.append({name: float(sem(each)) for name, each in changes.items()})
        results.append(
            {"seed": seed, **dict(zip(_VARIANTS, (m for m, _ in measured), strict=True))}
        )
    document = {
        "data": given.data,
        "profile": given.profile,
        "seeds": results,
        "mean": {variant: means([result[variant] for result in results]) for variant in _VARIANTS},
        "gain": means(gains, errors),
    }
    write("refit", given, document, console)


def gone_on(
    measuring: Home, tables: Dataset, config: RetrievalConfig, folder: Path, console: Console
) -> Path:
    """Train the towers of a measured fit on with the validation watches; return the release.

    Args:
        measuring: home of the measured fit's run.
        tables: its data set.
        config: see `refit_config`; its seed is that of the fit.
        folder: where checkpoints and the release go.
        console: where progress is shown.
    """
    run, repo = Run(measuring.run(tables.name)), measuring.features(tables.name)
    manifest = Manifest.read(run.release)
    watches = load_watches(measuring, tables.name)
    learned = watches.assign(part=watches["part"].replace({"validation": "train"}))
    data = RetrievalData.build(learned, tables.videos, tables.viewers)
    model = train_retrieval(data, config, folder / "checkpoints", console, start=run.checkpoints)
    release = folder / "release"
    origin = Origin(manifest.dataset, manifest.data_fingerprint, "last")
    staged = stage_retrieval(release, model, data, tables, repo, origin, manifest.quotas)
    take_ranker(staged, run.release, data)
    return release


def measures(measuring: Home, dataset: str, folder: Path) -> tuple[dict[str, float], Int64Array]:
    """Return a release's measures on the test watches, and each viewer's rank, int64[v]."""
    candidates, ranking = CandidateRelease.load(folder), RankingRelease.load(folder)
    watches = load_watches(measuring, dataset)
    bed = TestBed.of(watches, candidates.ids, published_of(candidates))
    repo = measuring.features(dataset)
    features = features_before_test(bed.watches, repo)
    count = candidates.manifest.candidates
    answers = run_chain(candidates, ranking, features, bed.viewers.targets, count, repo)
    found = of_lists(answers.ranked, bed.viewers)
    every = found.measures(bed.past.videos) | ranker_measures(answers, bed.viewers)
    train, held = (set(watches["video_id"][watches["part"] == part]) for part in _LEARNED)
    new = np.array([name in held - train for name in candidates.ids], bool)
    first = answers.ranked[:, :100]
    every["new_share"] = float(new[first[first >= 0]].mean())
    if (wanted := new[bed.viewers.targets]).any():
        every["new_recall_100"] = float((found.ranks[wanted] < 100).mean())
    kept = (*_COUNTED, *_PROBABILITIES, "new_share", "new_recall_100")
    return {name: every[name] for name in kept if name in every}, found.ranks


if __name__ == "__main__":
    main()
