"""What `vireo evaluate` does: the newest release in process, or the one that is served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc
import pandas as pd
from rich.console import Console

from server.errors import VireoError
from server.home import Home
from server.releases.manifest import Manifest, ReleaseError
from server.releases.s3 import S3Settings
from server.releases.store import ReleaseStore
from server.stack.s3 import access, external_endpoint
from server.stack.settings import StackSettings
from training.data.dataset import load_dataset
from training.evaluation.baselines.registry import BASELINES, QUICK
from training.evaluation.baselines.settings import add_to_report, tuned_for
from training.evaluation.chain import TestViewers
from training.evaluation.page.render import write_page
from training.evaluation.report import COMPARISON, SERVED, Systems, write_json
from training.evaluation.run import Metrics, TestBed, add_systems, compare_systems, evaluate_release
from training.evaluation.served import (
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
from training.evaluation.systems import baseline_systems, of_lists
from training.features.watches import Split, load_watches
from training.heartbeat import Bars
from training.run import Run


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found."""

    release_id: str
    metrics: Metrics
    """Measures by system, best system last."""
    answers: dict[str, int] = field(default_factory=dict)
    """How the stack answered; empty where none was asked."""
    agreement: Agreement | None = None
    """Between what the stack answered and the chain in process, of the same release."""


@dataclass(frozen=True)
class ServedOptions:
    """How to ask a running stack."""

    target: str
    """host:port of its edge."""
    lists: Path
    """Where each viewer's list goes."""
    concurrency: int = 8
    deadline: float = 5.0
    """Seconds that each request may take."""
    credentials: grpc.ChannelCredentials | None = None
    """For an edge that speaks TLS."""


def evaluate_staged(
    home: Home, dataset: str, console: Console, *, baselines: Sequence[str] = QUICK
) -> Evaluated:
    """Evaluates the newest trained release in process, and writes its report again.

    Intervals, tests and slices are written too where all of BASELINES are asked for.

    Raises:
        VireoError: there is none, or it can't be tested.
    """
    run = Run(home.run(dataset))
    manifest = staged_manifest(home, dataset)
    watches = load_watches(home, dataset)
    with _fitting_bar(console, baselines) as fitting:
        evaluation = evaluate_release(
            run.release,
            watches,
            home.features(dataset),
            run.checkpoints,
            run.report,
            baselines=baselines,
            fitting=fitting,
        )
    tables = load_dataset(home, dataset)
    bed = TestBed.of(watches, tables.videos["video_id"].tolist())
    _compare(run, bed, tables.videos, baselines)
    write_page(run.report, manifest)
    return Evaluated(manifest.release_id, evaluation.metrics)


def write_report_page(home: Home, dataset: str, path: Path | None = None) -> Path:
    """Makes the page of the newest run from what its report has, and says where it is.

    Raises:
        VireoError: there is no release or no report, or the file can't be written.
    """
    return write_page(Run(home.run(dataset)).report, staged_manifest(home, dataset), path)


def staged_manifest(home: Home, dataset: str) -> Manifest:
    """The newest trained release's; raises VireoError where there is none that can be tested."""
    try:
        manifest = Manifest.read(Run(home.run(dataset)).release)
    except ReleaseError as error:
        raise VireoError(f"{error}; train one with: vireo train --data {dataset}") from error
    check_dataset(manifest, dataset)
    check_split(manifest, Split.load(home, dataset))
    return manifest


def evaluate_served(
    home: Home,
    dataset: str,
    options: ServedOptions,
    console: Console,
    *,
    baselines: Sequence[str] = QUICK,
) -> Evaluated:
    """Asks the running stack for every test viewer's best, writes and measures the lists.

    Where the stack serves the release of the newest run, that run's report gets the system
    "served", and the lists are compared with those that the chain gave in process.

    Raises:
        VireoError: nothing answers, or what is served can't be tested on this data set.
    """
    release_id = serving_release(options.target, options.deadline, options.credentials)
    manifest = find_manifest(home, dataset, release_id)
    check_dataset(manifest, dataset)
    check_split(manifest, Split.load(home, dataset))
    tables = load_dataset(home, dataset)
    video_ids = tables.videos["video_id"].tolist()
    bed = TestBed.of(load_watches(home, dataset), video_ids)
    asyncio.run(
        check_features(
            options.target,
            bed.viewers,
            deadline=options.deadline,
            credentials=options.credentials,
        )
    )
    answers = _asked(options, bed.viewers, console)
    write_lists(options.lists, answers)
    served = of_lists(list_rows(answers, video_ids), bed.viewers)
    tuned = tuned_for(bed.past, home.features(dataset), dataset)
    with _fitting_bar(console, baselines) as fitting:
        systems = baseline_systems(bed.past, bed.viewers, baselines, fitting, tuned.configs())
    settings = tuned.of(systems)
    systems["served"] = served
    run = Run(home.run(dataset))
    if not _is_staged(run, release_id):
        metrics = {name: system.measures(len(video_ids)) for name, system in systems.items()}
        return Evaluated(release_id, metrics, counts(answers))
    add_to_report(run.report, settings)
    metrics = add_systems(run.report, bed, systems)
    offline = Systems.load(run.report, bed.viewers.ids).reports.get("chain")
    agreement = None if offline is None else Agreement.of(served.slates, offline.slates)
    evaluated = Evaluated(release_id, metrics, counts(answers), agreement)
    found = as_json(evaluated)
    del found["metrics"]
    write_json(run.report, SERVED, found)
    _compare(run, bed, tables.videos, baselines)
    write_page(run.report, manifest)
    return evaluated


def _asked(options: ServedOptions, viewers: TestViewers, console: Console) -> list[ServedAnswer]:
    """What the stack answers at the moments of the held-out watches, with a bar."""
    with Bars(console=console) as progress:
        task = progress.add_task("asking the stack", total=len(viewers.ids))
        return asyncio.run(
            ask_in_full(
                options.target,
                viewers.ids,
                viewers.moments.tolist(),
                concurrency=options.concurrency,
                deadline=options.deadline,
                answered=lambda: progress.advance(task),
                credentials=options.credentials,
            )
        )


@contextmanager
def _fitting_bar(console: Console, names: Sequence[str]) -> Iterator[Callable[[str], None]]:
    """A bar over the baselines; yields what to call before each."""
    progress = Bars(console=console, transient=True)
    task = progress.add_task("baselines", total=len(names) + 1)

    def fitting(name: str) -> None:
        # Not before: the chain is asked first, and has a bar of its own.
        progress.start()
        progress.update(task, description=f"baseline {name}", advance=1)

    try:
        yield fitting
    finally:
        progress.stop()


def _is_staged(run: Run, release_id: str) -> bool:
    """Whether the newest run's release is this one."""
    try:
        return Manifest.read(run.release).release_id == release_id
    except ReleaseError:
        return False


def _compare(run: Run, bed: TestBed, videos: pd.DataFrame, baselines: Sequence[str]) -> None:
    """Writes what depends on all systems: asked for with all baselines, kept up from then on."""
    if set(baselines) == set(BASELINES) or (run.report / COMPARISON).exists():
        compare_systems(run.report, bed, videos)


def find_manifest(home: Home, dataset: str, release_id: str) -> Manifest:
    """A release's manifest: of the newest run where it is that, else from the store.

    Raises:
        VireoError: it is in neither.
    """
    try:
        staged = Manifest.read(home.staged_release(dataset))
    except ReleaseError:
        staged = None
    if staged is not None and staged.release_id == release_id:
        return staged
    settings = S3Settings.load() if external_endpoint() else access(StackSettings.load())
    if settings is None:
        raise VireoError(
            f"the manifest of {release_id}, which is served, is neither in {home.root} nor in a "
            "known store; set VIREO_S3_ENDPOINT and its keys, or VIREO_HOME to the stack's home"
        )
    return ReleaseStore(settings).manifest(release_id)


def as_json(evaluated: Evaluated) -> dict[str, object]:
    """An evaluation as `--json` prints it: `release_id`, `metrics` by system, `answers`."""
    return asdict(evaluated)
