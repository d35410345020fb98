"""Trains the retrieval model: shows how it goes, can be stopped anywhere, and goes on."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from server.errors import VireoError
from training.checkpoint import read_checkpoint, write_checkpoint
from training.retrieval.config import RetrievalConfig
from training.retrieval.data import RetrievalData
from training.retrieval.model import TwoTower
from training.retrieval.trainer import RetrievalTrainer
from training.threads import torch_threads

CHECKPOINT = "retrieval.pt"
CURVE = "retrieval_curve.jsonl"
"""One JSON object an epoch: `epoch`, `loss`, and validation's measures where it ran."""


class TrainingInterruptedError(VireoError):
    """Ctrl-C stopped training; the checkpoint holds everything done so far."""


class EmptyTrainingSetError(VireoError):
    """There is nothing to learn from."""


class Interrupt:
    """Ctrl-C, noticed between two steps; a second one stops at once."""

    requested = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catches SIGINT meanwhile."""
        before = signal.signal(signal.SIGINT, self._request)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _request(self, *_: object) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


def train_retrieval(
    data: RetrievalData, config: RetrievalConfig, checkpoints: Path, console: Console | None = None
) -> TwoTower:
    """Trains to the end, from a checkpoint in `checkpoints` where it fits data and config.

    Returns:
        The moving average of the weights that did best in validation.

    Raises:
        TrainingInterruptedError: Ctrl-C; calling again goes on from there.
        EmptyTrainingSetError: no watch is in the train part.
        CheckpointError: the checkpoint is damaged.
    """
    if not data.watch_count:
        raise EmptyTrainingSetError(
            "the data set has no watches to train on; import plays or likes"
        )
    console = console or Console(stderr=True)
    trainer = RetrievalTrainer(data, config)
    identity = {
        "config": asdict(config),
        "data": data.fingerprint(),
        "code": trainer.state_names(),
    }
    _resume(trainer, identity, checkpoints, console)
    interrupt = Interrupt()
    with torch_threads(config.threads), interrupt.listening(), _progress(console) as bar:
        task = bar.add_task("retrieval", total=1.0, measures="")
        bar.update(task, completed=trainer.share_done)
        while not trainer.finished:
            started = time.monotonic()
            trainer.train_step()
            trainer.seconds += time.monotonic() - started
            started = time.monotonic()
            if trainer.at_epoch_end or trainer.share_done == 1:
                point = trainer.end_epoch()
                _write_curve(trainer, checkpoints)
                bar.update(task, measures=f"loss {point['loss']:.3f}")
                if "ndcg_10" in point:
                    bar.console.print(_described(point, config.epochs), highlight=False)
                    _save(trainer, identity, checkpoints)
            trainer.seconds += time.monotonic() - started
            bar.update(task, completed=trainer.share_done)
            if interrupt.requested:
                _save(trainer, identity, checkpoints)
                raise TrainingInterruptedError(
                    f"training was stopped with {trainer.share_done:.0%} of it done; "
                    "run the same command again to go on from there"
                )
    return trainer.best_model()


def _resume(
    trainer: RetrievalTrainer, identity: dict[str, Any], checkpoints: Path, console: Console
) -> None:
    state = read_checkpoint(checkpoints / CHECKPOINT)
    if state is None:
        return
    if state["identity"] != identity:
        changed = [name for name in identity if state["identity"].get(name) != identity[name]]
        console.print(f"training afresh: the checkpoint is of other {' and '.join(changed)}")
        return
    trainer.restore(state["trainer"])
    console.print(f"going on from the checkpoint, {trainer.share_done:.0%} done")


def _save(trainer: RetrievalTrainer, identity: dict[str, Any], checkpoints: Path) -> None:
    write_checkpoint(checkpoints / CHECKPOINT, {"identity": identity, "trainer": trainer.state()})


def _write_curve(trainer: RetrievalTrainer, checkpoints: Path) -> None:
    checkpoints.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(point) + "\n" for point in trainer.curve]
    (checkpoints / CURVE).write_text("".join(lines))


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}% {task.fields[measures]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def _described(point: dict[str, float], epochs: int) -> str:
    return (
        f"epoch {point['epoch']:.0f}/{epochs}  loss {point['loss']:.3f}  validation "
        f"HR@10 {point['hit_rate_10']:.3f}  NDCG@10 {point['ndcg_10']:.3f}  "
        f"Recall@100 {point['recall_100']:.3f}"
    )
