"""What the context of requests is worth: the chain with it, without it, and trained without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from server.candidate.release import CandidateRelease
from server.errors import VireoError
from server.features.context import UNKNOWN
from server.features.viewer import ViewerFeatures
from server.home import Home
from server.ranking.release import RankingRelease
from training.data.dataset import load_dataset
from training.evaluation.chain import features_before_test, run_chain
from training.evaluation.comparison import CONFIDENCE, paired_tests, with_intervals
from training.evaluation.run import TestBed
from training.evaluation.systems import SystemReport, of_lists
from training.features.watches import load_watches
from training.fit import fit
from training.profile import Profile
from training.run import Run

WITH = "with context"
ABSENT = "absent in requests"
OFF = "features off"


def study_context(home: Home, dataset: str, settings: Profile, console: Console) -> dict[str, Any]:
    """Compare the newest release with context, without, and with one trained without.

    The latter is fitted in a folder of the run; an interrupted study resumes.

    Args:
        home: the home of measured fits.
        dataset: name of the data set.
        settings: those that the newest release was trained with.
        console: where progress is shown.

    Returns:
        `features`: the context features of the release; `viewers`; `confidence`; `systems`: see
        `with_intervals`, by WITH, ABSENT and OFF; `tests`: WITH and ABSENT against OFF, see
        `paired_tests`.

    Raises:
        VireoError: the release reads no context.
    """
    run, watches = Run(home.run(dataset)), load_watches(home, dataset)
    features = CandidateRelease.load(run.release).context
    if not features:
        raise VireoError(
            f"the release of {dataset} reads no context: its watches have no device, time zone or "
            "locale; import data with these columns, or try vireo data synth --context"
        )
    without = _beside(home, dataset, run)
    # Without a limit of minutes: a busy machine must not shorten one training of the two.
    off = replace(settings, retrieval=replace(settings.retrieval, context=False, max_minutes=None))
    fit(without, load_dataset(without, dataset), off, console)
    bed = TestBed.of(watches, CandidateRelease.load(run.release).ids)
    viewers = features_before_test(bed.watches, home.features(dataset))
    nothing = [replace(viewer, context=UNKNOWN) for viewer in viewers]
    other = Run(without.run(dataset)).release
    reports = {
        WITH: _measured(run.release, bed, viewers),
        ABSENT: _measured(run.release, bed, nothing),
        OFF: _measured(other, bed, nothing),
    }
    ranks = {name: report.ranks for name, report in reports.items()}
    tests = {
        name: {against: paired_tests(ranks[name], {against: ranks[against]})[against]}
        for name, against in ((WITH, OFF), (ABSENT, OFF))
    }
    return {
        "features": list(features),
        "viewers": len(viewers),
        "confidence": CONFIDENCE,
        "systems": with_intervals(ranks),
        "tests": tests,
    }


def _beside(home: Home, dataset: str, run: Run) -> Home:
    """Return a home within a run's checkpoints, with the same data and features."""
    beside = Home(run.checkpoints / "without_context")
    for own, shared in (
        (beside.data(dataset), home.data(dataset)),
        (beside.features(dataset), home.features(dataset)),
    ):
        own.parent.mkdir(parents=True, exist_ok=True)
        if not own.is_symlink():
            own.symlink_to(shared.absolute(), target_is_directory=True)
    return beside


def _measured(folder: Path, bed: TestBed, viewers: Sequence[ViewerFeatures]) -> SystemReport:
    """Return the results of a release's chain on the test viewers."""
    candidates, ranking = CandidateRelease.load(folder), RankingRelease.load(folder)
    count = candidates.manifest.candidates
    answers = run_chain(candidates, ranking, viewers, bed.viewers.targets, count)
    return of_lists(answers.ranked, bed.viewers)
