"""How far the figures depend on the seed: trains, serves and tests one release for each.

    python -m bench.seeds --data ml-100k --profile demo --seeds 0 1 2

Each seed has a home of its own below VIREO_HOME/seeds, with the data and features of VIREO_HOME.
A seed that has been tested is not trained again, and one that was interrupted goes on: remove its
home to start afresh.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from scipy import stats

from bench.stack import VIREO, stack_environment
from server.errors import VireoError
from server.home import Home

REPORT = Path(__file__).parent / "report"
_SYSTEMS = ("chain", "served")
_CONFIDENCE = 0.95


def main() -> None:
    """Runs from the command line; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", default="ml-100k", help="name of an imported data set")
    parser.add_argument("--profile", default="demo", help="settings of the training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=REPORT, help="folder of the result")
    given = parser.parse_args()
    console, home = Console(stderr=True, highlight=False), Home.current()
    results = []
    for seed in given.seeds:
        console.rule(f"seed {seed} of {given.profile} on {given.data}")
        results.append(result_of(home, given.data, given.profile, seed))
    document = summary(given.data, given.profile, results)
    text = json.dumps(document, indent=2) + "\n"
    path = given.out / f"seeds-{given.data}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    report = home.measuring.run(given.data) / "report"
    if report.exists():  # For the page of the newest run.
        (report / "seeds.json").write_text(text)
    console.print(f"result: {path}", soft_wrap=True)


def result_of(home: Home, data: str, profile: str, seed: int) -> dict[str, Any]:
    """What one seed gave: trains, publishes, serves and tests where that isn't done yet.

    Raises:
        VireoError: a command failed, or not every viewer was answered in full.
    """
    own = seed_home(home, data, profile, seed)
    finished = own.root / "result.json"
    if finished.exists():
        result: dict[str, Any] = json.loads(finished.read_text())
        return result
    _link(home, own)
    environment = stack_environment(own)
    spent = train_seed(
        own, ["--data", data, "--profile", profile, "--seed", str(seed)], environment
    )
    found = json.loads(_run(["evaluate", "served", "--data", data, "--json"], environment))
    answers = found["answers"]
    if answers["failed"] or answers["degraded"]:
        raise VireoError(f"seed {seed} was not served in full, so it doesn't count: {answers}")
    result = {
        "seed": seed,
        "release_id": found["release_id"],
        "train_seconds": spent.seconds,
        "train_cpu_seconds": spent.cpu_seconds,
        "systems": {name: found["metrics"][name] for name in _SYSTEMS},
        "ranker": found["metrics"]["ranker"],
        "agreement": found["agreement"],
        "answers": answers,
    }
    finished.write_text(json.dumps(result, indent=2) + "\n")
    return result


def seed_home(home: Home, data: str, profile: str, seed: int) -> Home:
    """Return the home of one seed."""
    return Home(home.root / "seeds" / f"{data}-{profile}" / str(seed))


@dataclass(frozen=True)
class Spent:
    """What training has taken so far, the time between interruptions left out."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of all cores together: what other work on the machine hardly changes."""
    finished: bool = False


def train_seed(own: Home, options: Sequence[str], environment: Mapping[str, str]) -> Spent:
    """Trains a seed, or goes on where it was interrupted; what all of it took."""
    note = own.root / "spent.json"
    before = Spent(**json.loads(note.read_text())) if note.exists() else Spent()
    if before.finished:
        return before
    started, cpu_started = time.monotonic(), _children_cpu_seconds()
    finished = False
    try:
        _run(["train", *options], environment)
        finished = True
    finally:
        spent = Spent(
            before.seconds + time.monotonic() - started,
            before.cpu_seconds + _children_cpu_seconds() - cpu_started,
            finished,
        )
        note.write_text(json.dumps(asdict(spent)))
    return spent


def _children_cpu_seconds() -> float:
    """Of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def summary(data: str, profile: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every seed's figures, their means with Student's t intervals, and the machine."""
    measures, of_ranker = results[0]["systems"][_SYSTEMS[0]], results[0].get("ranker", {})
    return {
        "data": data,
        "profile": profile,
        "machine": {
            "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
            "threads": os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "processor": platform.processor() or platform.machine(),
        },
        "confidence": _CONFIDENCE,
        "seeds": list(results),
        "mean": {
            system: {
                measure: mean([result["systems"][system][measure] for result in results])
                for measure in measures
            }
            for system in _SYSTEMS
        },
        "ranker": {
            measure: mean([result["ranker"][measure] for result in results])
            for measure in of_ranker
        },
        **{
            name: mean([result[name] for result in results])
            for name in ("train_seconds", "train_cpu_seconds")
        },
    }


def mean(values: Sequence[float]) -> dict[str, float | None]:
    """`mean`, and `low` and `high` of its t interval, None of one value."""
    middle = float(np.mean(values))
    if len(values) < 2:
        return {"mean": middle, "low": None, "high": None}
    # What the test of the mean against 0 says of the mean, not of 0.
    found = stats.ttest_1samp(values, 0.0).confidence_interval(_CONFIDENCE)
    return {"mean": middle, "low": float(found.low), "high": float(found.high)}


def _link(home: Home, own: Home) -> None:
    """Give a seed's home the data and features of the main one."""
    for name in ("data", "features", "measuring/features"):
        (home.root / name).mkdir(parents=True, exist_ok=True)  # the first seed builds features
        link = own.root / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(home.root / name, target_is_directory=True)


def _run(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Runs a `vireo` command, its progress shown, and gives what it printed."""
    done = subprocess.run(
        [*VIREO, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise VireoError(f"vireo {' '.join(arguments)} failed with code {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main()
