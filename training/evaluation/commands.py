"""Steps of `vireo evaluate`: measure the newest release in process, or the one that is served."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc
import pandas as pd
from rich.console import Console

from vireo.ops.stack.s3 import access, external_endpoint
from vireo.ops.stack.settings import StackSettings
from vireo.server.arrays import Int64Array
from vireo.server.candidate.release import CandidateRelease
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.ranking.release import RankingRelease
from vireo.server.releases.manifest import Manifest, ReleaseError
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo.training.data.dataset import load_dataset
from vireo.training.evaluation.baselines.registry import BASELINES, QUICK
from vireo.training.evaluation.chain import TestViewers, features_before_test, run_chain
from vireo.training.evaluation.page import write_page
from vireo.training.evaluation.report import COMPARISON, SERVED, write_json
from vireo.training.evaluation.run import (
    Metrics,
    TestBed,
    add_systems,
    compare_systems,
    evaluate_release,
    measured_baselines,
)
from vireo.training.evaluation.served import (
    Agreement,
    ServedAnswer,
    ask_in_full,
    check_dataset,
    check_features,
    check_split,
    counts,
    list_rows,
    serving_release,
    write_lists,
)
from vireo.training.evaluation.systems import of_lists
from vireo.training.features.publication import published_times
from vireo.training.features.watches import Split, load_watches
from vireo.training.heartbeat import Bars
from vireo.training.run import Run


@dataclass(frozen=True)
class Evaluated:
    """Results of an evaluation."""

    release_id: str
    metrics: Metrics
    answers: dict[str, int] = field(default_factory=dict)
    """Counts of the stack's responses; empty if none was asked."""
    agreement: Agreement | None = None
    """Agreement of the stack with the same release in process."""


@dataclass(frozen=True)
class ServedOptions:
    """How to call a running stack."""

    target: str
    """host:port of its edge."""
    lists: Path
    """File for each viewer's list."""
    concurrency: int = 8
    """Maximum requests in flight."""
    deadline: float = 5.0
    """Seconds for each request."""
    credentials: grpc.ChannelCredentials | None = None
    """For an edge with TLS."""


def evaluate_staged(home: Home, dataset: str, baselines: Sequence[str] = QUICK) -> Evaluated:
    """Measure the newest trained release in process, and update its report.

    With all of BASELINES, intervals, tests and slices are written too.

    Raises:
        VireoError: there is none, or it can't be tested.
    """
    run = Run(home.run(dataset))
    manifest = staged_manifest(home, dataset)
    watches = load_watches(home, dataset)
    metrics = evaluate_release(
        run.release, watches, home.features(dataset), run.checkpoints, run.report, baselines
    )
    videos = load_dataset(home, dataset).videos
    bed = TestBed.of(watches, videos["video_id"].tolist(), published_times(videos))
    _finish_report(run, manifest, bed, videos, baselines)
    return Evaluated(manifest.release_id, metrics)


def evaluate_served(
    home: Home,
    dataset: str,
    options: ServedOptions,
    console: Console,
    baselines: Sequence[str] = QUICK,
) -> Evaluated:
    """Request every test viewer's list from the running stack, write and measure the lists.

    If the stack serves the newest run's release, that run's report gets the system "served", and
    the lists are compared with those of the same release in process. Both rank with the video
    features of the newest snapshot, whenever a watch was held out; the chain's are of its time.

    Raises:
        VireoError: no response, or the served release can't be tested on this data set.
    """
    release_id = serving_release(options.target, options.deadline, options.credentials)
    staged = staged_as(home, dataset, release_id)
    manifest = staged or stored_manifest(home, release_id)
    check_dataset(manifest, dataset)
    check_split(manifest, Split.load(home, dataset))
    videos = load_dataset(home, dataset).videos
    video_ids = videos["video_id"].tolist()
    bed = TestBed.of(load_watches(home, dataset), video_ids, published_times(videos))
    answers = _ask(options, bed.viewers, console)
    write_lists(options.lists, answers)
    lists = list_rows(answers, video_ids)
    # The stack goes by the clock, and answers with what came after the watch.
    served = of_lists(bed.viewers.only_published(lists), bed.viewers)
    run = Run(home.run(dataset))
    report = run.report if staged else None
    systems = measured_baselines(bed, home.features(dataset), dataset, baselines, report)
    systems["served"] = served
    if staged is None:
        metrics = {name: system.measures(len(video_ids)) for name, system in systems.items()}
        return Evaluated(release_id, metrics, counts(answers))
    metrics = add_systems(run.report, bed, systems)
    offline = _lists_in_process(run.release, bed, home.features(dataset))
    agreement = Agreement.of(lists, offline)
    evaluated = Evaluated(release_id, metrics, counts(answers), agreement)
    found = asdict(evaluated)
    del found["metrics"]
    write_json(run.report, SERVED, found)
    _finish_report(run, manifest, bed, videos, baselines)
    return evaluated


def write_report_page(home: Home, dataset: str, path: Path | None = None) -> Path:
    """Write the page of the newest run's report and return its path.

    Raises:
        VireoError: there is no release or no report, or the file can't be written.
    """
    return write_page(Run(home.run(dataset)).report, staged_manifest(home, dataset), path)


def staged_manifest(home: Home, dataset: str) -> Manifest:
    """Return the newest trained release's manifest; raise VireoError if it can't be tested."""
    try:
        manifest = Manifest.read(home.staged_release(dataset))
    except ReleaseError as error:
        raise VireoError(f"{error}; train one with: vireo train --data {dataset}") from error
    check_dataset(manifest, dataset)
    check_split(manifest, Split.load(home, dataset))
    return manifest


def staged_as(home: Home, dataset: str, release_id: str) -> Manifest | None:
    """Return the newest run's manifest if its release has this id."""
    try:
        manifest = Manifest.read(home.staged_release(dataset))
    except ReleaseError:
        return None
    return manifest if manifest.release_id == release_id else None


def stored_manifest(home: Home, release_id: str) -> Manifest:
    """Return the manifest of a release in the store.

    Raises:
        VireoError: no store is known, or it has no such release.
    """
    settings = S3Settings.load() if external_endpoint() else access(StackSettings.load())
    if settings is None:
        raise VireoError(
            f"the manifest of {release_id}, which is served, is neither in {home.root} nor in a "
            "known store; set VIREO_S3_ENDPOINT and its keys, or VIREO_HOME to the stack's home"
        )
    return ReleaseStore(settings).manifest(release_id)


def _ask(options: ServedOptions, viewers: TestViewers, console: Console) -> list[ServedAnswer]:
    """Return the stack's responses at the times of the held-out watches."""
    with Bars(console=console) as progress:
        task = progress.add_task("asking the stack", total=len(viewers.ids))

        async def ask() -> list[ServedAnswer]:
            await check_features(
                options.target,
                viewers,
                deadline=options.deadline,
                credentials=options.credentials,
            )
            return await ask_in_full(
                options.target,
                viewers.ids,
                viewers.moments.tolist(),
                contexts=viewers.contexts,
                concurrency=options.concurrency,
                deadline=options.deadline,
                answered=lambda: progress.advance(task),
                credentials=options.credentials,
            )

        return asyncio.run(ask())


def _lists_in_process(folder: Path, bed: TestBed, repo: Path) -> Int64Array:
    """Return the lists of a release's pods, without any, for all viewers: int64[v, c]."""
    candidates, ranking = CandidateRelease.load(folder), RankingRelease.load(folder)
    viewers, count = features_before_test(bed.watches, repo), candidates.manifest.candidates
    return run_chain(candidates, ranking, viewers, bed.viewers.targets, count, None).ranked


def _finish_report(
    run: Run, manifest: Manifest, bed: TestBed, videos: pd.DataFrame, baselines: Sequence[str]
) -> None:
    """Update the page, and the comparison if all baselines were measured, now or before."""
    if set(baselines) == set(BASELINES) or (run.report / COMPARISON).exists():
        compare_systems(run.report, bed, videos)
    write_page(run.report, manifest)
