"""Train the retrieval model, with progress display, interruption at any step, and resumption."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from threading import Event

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from vireo.server.errors import VireoError
from vireo.training.config import RetrievalConfig
from vireo.training.modules import (
    CheckpointError,
    Checkpoints,
    read_checkpoint,
    torch_threads,
    write_checkpoint,
)
from vireo.training.progress import Bars
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.embeddings import fill_unseen
from vireo.training.retrieval.model import TwoTower
from vireo.training.retrieval.trainer import RetrievalTrainer
from vireo.training.run import fingerprint

PHASE = "retrieval"
RESULT = "towers.pt"
"""Weights of a finished training, from which another may start."""
CURVE = "retrieval_curve.jsonl"
"""One JSON object an epoch: `epoch`, `loss`, `tokens` (watches trained on), and the validation
metrics if it was validated."""


_STOPPING = (signal.SIGINT, signal.SIGTERM)


class TrainingInterruptedError(VireoError):
    """Ctrl-C or SIGTERM stopped training; the checkpoint holds its progress."""


class EmptyTrainingSetError(VireoError):
    """The data set has no watches to train on."""


@contextmanager
def _interrupts() -> Iterator[Event]:
    """Set the event on Ctrl-C or SIGTERM, to be checked between steps; a second stops at once."""
    requested = Event()

    def request(*_: object) -> None:
        requested.set()
        for number in _STOPPING:
            signal.signal(number, signal.default_int_handler)

    before = [(number, signal.signal(number, request)) for number in _STOPPING]
    try:
        yield requested
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def train_retrieval(
    data: RetrievalData,
    config: RetrievalConfig,
    checkpoints: Path,
    console: Console | None = None,
    start: Path | None = None,
) -> TwoTower:
    """Train to the end, resuming from a checkpoint in `checkpoints` if it fits data and config.

    Args:
        data: what to train on.
        config: architecture and hyperparameters.
        checkpoints: folder of the checkpoint and the learning curve.
        console: where progress is shown.
        start: folder of a finished training of the same catalogue and architecture, to start from
            its result.

    Returns:
        The moving average of the weights that was best in validation, or the last one without a
        validation part, with unseen videos filled in and those with few watches near them.

    Raises:
        TrainingInterruptedError: Ctrl-C or SIGTERM; calling again resumes.
        EmptyTrainingSetError: no watch is in the train part.
        CheckpointError: a checkpoint is damaged, or the result in `start` is missing, or of towers
            that are built otherwise.
    """
    if not data.watch_count:
        raise EmptyTrainingSetError(
            "the data set has no watches to train on; import plays or likes"
        )
    console = console or Console(stderr=True)
    first = trained_weights(start) if start else None
    trainer = RetrievalTrainer(data, config, first)
    inputs = fingerprint(
        asdict(config),
        data.fingerprint(),
        trainer.state_names(),
        hashlib.sha256((start / RESULT).read_bytes()).hexdigest() if start else None,
    )
    del first  # As large as the catalogue's vectors.
    kept = Checkpoints(checkpoints, inputs)
    if state := kept.read(PHASE):
        trainer.restore(state)
        console.print(f"resuming from the checkpoint, {trainer.share_done:.0%} done")
    elif kept.path(PHASE).exists():
        console.print("training from scratch: the checkpoint is of other data, settings or code")
    with torch_threads(config.threads), _interrupts() as interrupt, _progress(console) as bar:
        task = bar.add_task("retrieval", total=1.0, measures="")
        bar.update(task, completed=trainer.share_done)
        while not trainer.finished:
            began = time.monotonic()
            trainer.train_step()
            # What the schedule goes by must be known before an epoch ends.
            trainer.seconds += time.monotonic() - began
            began, measures = time.monotonic(), f"loss {trainer.loss:.3f}"
            if trainer.at_epoch_end or trainer.share_done == 1:
                point = trainer.end_epoch()
                if "ndcg_10" in point:
                    bar.console.print(_described(point, trainer.epochs), highlight=False)
                if "ndcg_10" in point or trainer.finished:
                    _write_curve(trainer, checkpoints)
                    kept.write(PHASE, trainer.state())
                trainer.seconds += time.monotonic() - began
            bar.update(task, completed=trainer.share_done, measures=measures)
            if interrupt.is_set():
                kept.write(PHASE, trainer.state())
                raise TrainingInterruptedError(
                    f"training was interrupted at {trainer.share_done:.0%}; "
                    "run the same command again to resume"
                )
    console.print(_summed_up(trainer), highlight=False)
    model = trainer.best_model()
    del trainer  # Weights and optimiser state take four times the model's memory.
    fill_unseen(model, data)
    write_checkpoint(checkpoints / RESULT, model.state_dict())
    return model


def trained_weights(checkpoints: Path) -> dict[str, Tensor]:
    """Return the result of the training in this folder; raise CheckpointError."""
    weights = read_checkpoint(checkpoints / RESULT)
    if weights is None:
        raise CheckpointError(
            f"{checkpoints / RESULT}, which the towers start from, is missing; "
            "train again with --fresh"
        )
    return weights


def _write_curve(trainer: RetrievalTrainer, checkpoints: Path) -> None:
    checkpoints.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(point) + "\n" for point in trainer.curve]
    (checkpoints / CURVE).write_text("".join(lines))


def _progress(console: Console) -> Bars:
    return Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}% {task.fields[measures]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def _summed_up(trainer: RetrievalTrainer) -> str:
    tokens = sum(point["tokens"] for point in trainer.curve)
    learned = f"trained on {tokens:,.0f} watches in {trainer.seconds / 60:.1f} minutes"
    if trainer.best_ndcg < 0:
        return learned
    return f"{learned}; best validation NDCG@10 {trainer.best_ndcg:.3f}"


def _described(point: dict[str, float], epochs: int) -> str:
    return (
        f"epoch {point['epoch']:.0f}/{epochs}  loss {point['loss']:.3f}  validation "
        f"HR@10 {point['hr_10']:.3f}  NDCG@10 {point['ndcg_10']:.3f}  "
        f"Recall@100 {point['recall_100']:.3f}"
    )
