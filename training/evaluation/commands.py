"""What `vireo evaluate` does: the newest release in process, or the one that is served."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from server.errors import VireoError
from server.home import Home
from server.releases.manifest import Manifest, ReleaseError
from server.releases.s3 import S3Settings
from server.releases.store import ReleaseStore
from server.stack.s3 import access, external_endpoint
from server.stack.settings import StackSettings
from training.data.dataset import load_dataset
from training.evaluation.chain import load_test_viewers, past_watches
from training.evaluation.report import baselines, of_lists
from training.evaluation.run import Metrics, evaluate_release
from training.evaluation.served import (
    ask_viewers,
    check_dataset,
    check_split,
    counts,
    list_rows,
    serving_release,
    write_lists,
)
from training.features.watches import Split, load_watches
from training.ranking.config import RankingConfig
from training.run import Run


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found."""

    release_id: str
    metrics: Metrics
    """Measures by system, best system last."""
    answers: dict[str, int]
    """How the stack answered; empty where none was asked."""


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


def evaluate_staged(home: Home, dataset: str) -> Evaluated:
    """Evaluates the newest trained release in process, and writes its report again.

    Raises:
        VireoError: there is none, or it can't be tested.
    """
    run = Run(home.run(dataset))
    try:
        manifest = Manifest.read(run.release)
    except ReleaseError as error:
        raise VireoError(f"{error}; train one with: vireo train --data {dataset}") from error
    check_dataset(manifest, dataset)
    check_split(manifest, Split.load(home, dataset))
    evaluation = evaluate_release(
        run.release,
        load_watches(home, dataset),
        home.features(dataset),
        run.checkpoints,
        run.report,
        RankingConfig().candidates,
    )
    return Evaluated(manifest.release_id, evaluation.metrics, {})


def evaluate_served(
    home: Home, dataset: str, options: ServedOptions, console: Console
) -> Evaluated:
    """Asks the running stack for every test viewer's best, writes and measures the lists.

    Raises:
        VireoError: nothing answers, or what is served can't be tested on this data set.
    """
    release_id = serving_release(options.target, options.deadline)
    manifest = find_manifest(home, dataset, release_id)
    check_dataset(manifest, dataset)
    check_split(manifest, Split.load(home, dataset))
    watches = load_watches(home, dataset)
    video_ids = load_dataset(home, dataset).videos["video_id"].tolist()
    viewers = load_test_viewers(watches, video_ids)
    with Progress(console=console) as progress:
        task = progress.add_task("asking the stack", total=len(viewers.ids))
        answers = asyncio.run(
            ask_viewers(
                options.target,
                viewers.ids,
                concurrency=options.concurrency,
                deadline=options.deadline,
                answered=lambda: progress.advance(task),
            )
        )
    write_lists(options.lists, answers)
    served = of_lists(list_rows(answers, video_ids), viewers)
    past = list(past_watches(watches, video_ids).values())
    systems = baselines(past, len(video_ids), viewers) | {"served": served}
    metrics = {name: system.measures(len(video_ids)) for name, system in systems.items()}
    return Evaluated(release_id, metrics, counts(answers))


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
