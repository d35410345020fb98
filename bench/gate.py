"""How often the gate is wrong: releases that differ by their seed, and ones that lost something.

    python -m bench.gate --data ml-100k --profile quick --seeds 0 1 2 3 4

Trains what `python -m bench.seeds` hasn't trained yet, and judges each ordered pair. With `--grown
demo` also each seed's release by that profile as the successor of the one by `--profile`. The
gate's `Measure.seeds` and the bounds of `LIKENESS` are from its result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from rich.console import Console

from bench.seeds import arguments, link, seed_home, train_seed, write
from bench.stack import stack_environment
from vireo.server.home import Home
from vireo.server.releases.gate import judge
from vireo.server.releases.gate_measures import LIKENESS, MEASURES, Measured
from vireo.training.features.watches import load_watches
from vireo.training.release.measure import LoadedRelease, measure

_VIEWERS = 2_000
_RESAMPLES = 400


def main() -> None:
    """Run from the command line; see the module."""
    given = arguments(__doc__, grown="a profile whose releases succeed those of --profile")
    console, home = Console(stderr=True, highlight=False), Home.current()
    homes = trained(home, given.data, given.profile, given.seeds, console)
    pairs = [measured(now, candidate, given.data) for now, candidate in combinations(homes, 2)]
    document = {
        "data": given.data,
        "profile": given.profile,
        "seeds": given.seeds,
        **judged(
            [pair for first, second, _ in pairs for pair in ((first, second), (second, first))]
        ),
        "between_seeds": deviations(pairs),
        "likeness_of_seeds": likenesses([pair[:2] for pair in pairs]),
        "likeness_of_served_fits": likenesses([pair[1:] for pair in pairs]),
    }
    if given.grown:
        grown = trained(home, given.data, given.grown, given.seeds, console)
        pairs = [measured(*each, given.data) for each in zip(homes, grown, strict=True)]
        results = [judge(now, candidate) for now, candidate, _ in pairs]
        refused = [list(result.findings) for result in results if not result.passed]
        document["grown"] = {"profile": given.grown, "pairs": len(results), "refused": refused}
    write("gate", given, document, console)


def trained(
    home: Home, data: str, profile: str, seeds: Sequence[int], console: Console
) -> list[Home]:
    """Return the home of each seed, trained by a profile."""
    homes = []
    for seed in seeds:
        console.rule(f"seed {seed} of {profile} on {data}")
        own = seed_home(home, data, profile, seed)
        link(home, own)
        options = ["--data", data, "--profile", profile, "--seed", str(seed)]
        train_seed(own, options, stack_environment(own))
        homes.append(own)
    return homes


def measured(now: Home, candidate: Home, data: str) -> list[Measured]:
    """Return the measurements of two seeds' measured fits, and of the second one's served fit."""
    folders = [each.measuring.staged_release(data) for each in (now, candidate)]
    releases = [LoadedRelease.load(each) for each in (*folders, candidate.staged_release(data))]
    measuring = now.measuring
    watches, repo = load_watches(measuring, data), measuring.features(data)
    found = measure(releases, watches, repo, max_viewers=_VIEWERS)
    assert found is not None, "a data set without test viewers"
    return found


def judged(pairs: Sequence[tuple[Measured, Measured]]) -> dict[str, Any]:
    """Return what the gate says of pairs of equal releases, and of candidates that lost something.

    `passed_after_loss`: by measure, how many candidates still pass after they lost twice the
    smallest loss that the measure can tell, in viewers drawn at random.
    """
    results = [judge(*pair) for pair in pairs]
    passed: dict[str, int] = {}
    for name, field in {"ndcg_10": "gains", "recall_100": "hits"}.items():
        passed[name] = 0
        for number, (result, pair) in enumerate(zip(results, pairs, strict=True)):
            [check] = [each for each in result.checks if each.measure == name]
            figures = getattr(pair[1], field)
            lost = np.random.default_rng(number).random(len(figures)) < 2 * check.tells / check.now
            kept: dict[str, Any] = {field: np.where(lost, 0.0, figures)}
            worse = replace(pair[1], **kept)
            passed[name] += judge(pair[0], worse).passed
    return {
        "viewers": results[0].viewers,
        "pairs": len(pairs),
        "refused": [list(result.findings) for result in results if not result.passed],
        "false_refusals": float(np.mean([result.false_refusals for result in results])),
        "tells": {
            check.measure: {"now": check.now, "margin": check.margin, "tells": check.tells}
            for check in results[0].checks
        },
        "passed_after_loss": passed,
    }


def deviations(pairs: Sequence[Sequence[Measured]]) -> dict[str, dict[str, float]]:
    """Return how far the figures of seeds lie apart, as a standard deviation of one seed's.

    By measure `all`, and `beyond_viewers`: without what a bootstrap over viewers explains.
    """
    random, found = np.random.default_rng(0), {}
    for name, measure_ in MEASURES.items():
        if measure_.task and not pairs[0][0].predictions[measure_.task].observed.any():
            continue  # the data has no labels of it
        squares, explained, figures = [], [], []
        for now, candidate, *_ in pairs:
            count = len(now.seconds if name == "inference_p50" else now.gains)
            drawn = random.multinomial(count, np.full(count, 1 / count), _RESAMPLES)
            changes = [measure_.of(candidate, times) - measure_.of(now, times) for times in drawn]
            everyone = np.ones(count, np.int64)
            figures += [measure_.of(each, everyone) for each in (now, candidate)]
            squares.append((figures[-1] - figures[-2]) ** 2 / 2)
            explained.append(float(np.var(changes)) / 2)
        beyond = max(0.0, float(np.mean(squares) - np.mean(explained)))
        unit = float(np.mean(figures)) if measure_.relative else 1.0
        found[name] = {
            "all": float(np.sqrt(np.mean(squares))) / unit,
            "beyond_viewers": float(np.sqrt(beyond)) / unit,
        }
    return found


def likenesses(pairs: Sequence[Sequence[Measured]]) -> dict[str, list[float]]:
    """Return the least and the mean of each likeness of pairs."""
    found = {name: [of(*pair) for pair in pairs] for name, (of, _) in LIKENESS.items()}
    return {name: [min(values), float(np.mean(values))] for name, values in found.items()}


if __name__ == "__main__":
    main()
