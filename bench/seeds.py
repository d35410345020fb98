"""The spread of the figures over seeds: train, serve and test one release for each.

    python -m bench.seeds --data ml-100k --profile demo --seeds 0 1 2

Each seed has a home of its own below VIREO_HOME/seeds, with the data and features of VIREO_HOME.
A seed that has been tested is not trained again, and one that was interrupted goes on: remove its
home to start afresh. Times are those of the run of training that finished.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from rich.console import Console
from scipy import stats

from bench.stack import run_vireo
from vireo.ops.cli.own_stack import stack_environment
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.training.evaluation.systems import RANKS
from vireo.training.metrics import PER_VIEWER

_REPORT = Path(__file__).parent / "report"
_SYSTEMS = ("chain", "served")
_CONFIDENCE = 0.95


def main() -> None:
    """Run from the command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="ml-100k", help="name of an imported data set")
    parser.add_argument("--profile", default="demo", help="settings of the training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    console, home = Console(stderr=True, highlight=False), Home.current()
    results = []
    for seed in given.seeds:
        console.rule(f"seed {seed} of {given.profile} on {given.data}")
        results.append(result_of(home, given.data, given.profile, seed))
    path = _REPORT / f"seeds-{given.data}.json"
    path.write_text(json.dumps(summary(given.data, given.profile, results), indent=2) + "\n")
    console.print(f"result: {path}", soft_wrap=True)
    report = home.measuring.run(given.data) / "report"
    if report.exists():  # for the page of the newest run
        (report / "seeds.json").write_text(path.read_text())


def result_of(home: Home, data: str, profile: str, seed: int) -> dict[str, Any]:
    """Train, publish, serve and test a seed unless that is done, and return its figures.

    Raises:
        VireoError: a command failed, or not every viewer was answered in full.
    """
    own = Home(home.root / "seeds" / f"{data}-{profile}" / str(seed))
    finished = own.root / "result.json"
    if finished.exists():
        result: dict[str, Any] = json.loads(finished.read_text())
        return result
    _link(home, own)
    environment = stack_environment(own)
    started, cpu_started = time.monotonic(), _children_cpu_seconds()
    run_vireo(["train", "--data", data, "--profile", profile, "--seed", str(seed)], environment)
    seconds, cpu_seconds = time.monotonic() - started, _children_cpu_seconds() - cpu_started
    found = json.loads(run_vireo(["evaluate", "served", "--data", data, "--json"], environment))
    answers = found["answers"]
    if answers["failed"] or answers["degraded"]:
        raise VireoError(f"seed {seed} was not served in full, so it doesn't count: {answers}")
    result = {
        "seed": seed,
        "release_id": found["releaseId"],
        "train_seconds": seconds,
        "train_cpu_seconds": cpu_seconds,
        "systems": {name: found["metrics"][name] for name in _SYSTEMS},
        "viewer_errors": viewer_errors(own.measuring.run(data) / "report" / RANKS),
        "ranker": found["metrics"]["ranker"],
        "agreement": found["agreement"],
        "answers": answers,
    }
    finished.write_text(json.dumps(result, indent=2) + "\n")
    return result


def viewer_errors(ranks: Path) -> dict[str, dict[str, float]]:
    """Return the standard error over viewers of each system's measures, given a report's ranks."""
    with np.load(ranks) as file:
        return {
            name: {
                measure: float(np.std(of(file[name]), ddof=1) / math.sqrt(len(file[name])))
                for measure, of in PER_VIEWER.items()
            }
            for name in _SYSTEMS
        }


def _children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def summary(data: str, profile: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return every seed's figures, and their means with intervals.

    The intervals of the systems' measures cover both seeds and viewers.
    """
    spent = [{name: each[name] for name in each if name.startswith("train_")} for each in results]
    return {
        "data": data,
        "profile": profile,
        "confidence": _CONFIDENCE,
        "seeds": list(results),
        "mean": {
            system: _means(
                [result["systems"][system] for result in results],
                [result["viewer_errors"][system] for result in results],
            )
            for system in _SYSTEMS
        },
        "ranker": _means([result["ranker"] for result in results]),
        **_means(spent),
    }


def _means(
    results: Sequence[Mapping[str, float]], errors: Sequence[Mapping[str, float]] = ()
) -> dict[str, dict[str, float | None]]:
    """Return the mean of each measure over seeds, with its interval; see `mean`.

    `errors` are the seeds' `viewer_errors`, of some of the measures.
    """
    return {
        name: mean(
            [result[name] for result in results], [each[name] for each in errors if name in each]
        )
        for name in results[0]
    }


def mean(values: Sequence[float], errors: Sequence[float] = ()) -> dict[str, float | None]:
    """Return `mean`, and `low` and `high` of its interval, which are None for one value.

    It is Student's t over seeds, widened by the standard error over the viewers, whom all seeds
    share: the mean of `errors`.
    """
    middle = float(np.mean(values))
    if len(values) < 2:
        return {"mean": middle, "low": None, "high": None}
    # The test of the mean against 0 has the mean's own interval.
    found = stats.ttest_1samp(values, 0.0).confidence_interval(_CONFIDENCE)
    viewers = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2) * np.mean(errors) if errors else 0.0
    half = math.hypot(middle - float(found.low), viewers)
    return {"mean": middle, "low": middle - half, "high": middle + half}


def _link(home: Home, own: Home) -> None:
    """Give a seed's home the data and features of the main one."""
    for name in ("data", "features", "measuring/features"):
        (home.root / name).mkdir(parents=True, exist_ok=True)  # the first seed builds features
        link = own.root / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(home.root / name, target_is_directory=True)


if __name__ == "__main__":
    main()
