"""Ensemble of several pairs of towers, whose score of a video is the sum of the members' scores.

Models trained from different seeds make different errors, which a sum reduces: deep ensembles,
Lakshminarayanan et al. 2017, section 2.4. The members' vectors are concatenated: the dot product
is then the sum of the members' dot products, and serving needs no change.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from server.cores import cores
from training.retrieval.config import RetrievalConfig
from training.retrieval.data import RetrievalData
from training.retrieval.distributed import Processes
from training.retrieval.model import TwoTower, ViewerSide
from training.retrieval.towers import Towers
from training.retrieval.train import TrainingInterruptedError, train_retrieval

_SEED_STEP = 7919
"""Distance between members' seeds: more than the range of seeds used in comparisons."""


@dataclass(frozen=True)
class Member:
    """Training of one pair of towers."""

    config: RetrievalConfig
    folder: Path
    """Folder of its checkpoint."""
    start: Path | None = None
    """Folder of the finished training's checkpoint that this one starts from."""


@dataclass(frozen=True)
class Aside:
    """Child processes, each of which trains one member."""

    processes: Sequence[SpawnProcess]

    def wait(self, console: Console | None = None) -> None:
        """Wait until all have ended, and report the exit codes of those that failed.

        A failed process has logged its error on stderr, and its checkpoint holds its progress.
        """
        console = console or Console(stderr=True)
        for process in self.processes:
            process.join()
            if process.exitcode:
                console.print(
                    f"a training process ended with {process.exitcode}: resuming it in this one"
                )


@contextmanager
def trained_aside(data: RetrievalData, members: Sequence[Member]) -> Iterator[Aside]:
    """Train each member in a child process during the block.

    Processes still running when the block is left, as by Ctrl-C, write their checkpoints and end.
    """
    # Forked, a process would hang in torch's threads.
    spawning = multiprocessing.get_context("spawn")
    processes = [
        spawning.Process(target=_train, args=(data, member), name=f"member-{member.config.seed}")
        for member in members
    ]
    try:
        for process in processes:
            process.start()
        yield Aside(processes)
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
        for process in processes:
            if process.pid is not None:
                process.join()


def _train(data: RetrievalData, member: Member) -> None:
    # A session of its own: Ctrl-C reaches the parent alone, which then sends a single SIGTERM.
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        quiet = Console(quiet=True)
        train_retrieval(data, member.config, member.folder, quiet, start=member.start)
    except TrainingInterruptedError:
        raise SystemExit(128 + signal.SIGTERM) from None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


class SummedTowers(nn.Module):
    """Trained towers whose vectors are concatenated."""

    def __init__(self, members: Sequence[TwoTower]) -> None:
        """Combine towers of the same data and architecture."""
        super().__init__()
        self.members = nn.ModuleList(members)
        self.config = members[0].config
        self.video_count = members[0].video_count
        self.attribute_count = members[0].attribute_count
        self.context = members[0].context

    def video_vectors(self) -> Tensor:
        """Return the catalogue's vectors, by row, float32[n, members x d]."""
        return torch.cat([member.video_vectors() for member in self.towers()], 1)

    def content_vectors(self) -> Tensor:
        """Return the content part of every video's vector, float32[n, members x d]."""
        return torch.cat([member.content_vectors() for member in self.towers()], 1)

    def viewer_side(self) -> ViewerSide:
        """Return the module that computes viewers' vectors from videos' vectors."""
        return ViewerSide([member.viewer_tower for member in self.towers()])

    def towers(self) -> list[TwoTower]:
        """Return the members."""
        return [member for member in self.members if isinstance(member, TwoTower)]


def train_towers(
    data: RetrievalData,
    config: RetrievalConfig,
    checkpoints: Path,
    console: Console | None = None,
    processes: Processes | None = None,
    start: Path | None = None,
) -> Towers:
    """Train `config.members` pairs of towers, each from its own seed.

    Members are trained in parallel as far as there are cores for their threads; under torchrun,
    whose processes share the work on each, one after the other. Arguments and errors are those
    of `train_retrieval`. The first member's checkpoint and learning curve are in `checkpoints`,
    the others' in subfolders, and likewise in `start`.
    """
    members = [
        Member(
            replace(config, members=1, seed=config.seed + number * _SEED_STEP),
            _folder(checkpoints, number),
            _folder(start, number) if start else None,
        )
        for number in range(config.members)
    ]
    alone = processes is None or processes.count == 1
    at_once = max(1, cores() // config.threads) if alone and config.threads else 1
    trained = []
    for round_ in _batched(members, at_once):
        with trained_aside(data, round_[1:]) as aside:
            first = _trained(data, round_[0], console, processes)
            aside.wait(console)
        # Each resumes from its process's last checkpoint, usually that of a finished training.
        rest = [_trained(data, member, console, processes) for member in round_[1:]]
        trained += [first, *rest]
    return trained[0] if config.members == 1 else SummedTowers(trained).eval()


def _folder(checkpoints: Path, number: int) -> Path:
    return checkpoints / f"member-{number + 1}" if number else checkpoints


def _trained(
    data: RetrievalData, member: Member, console: Console | None, processes: Processes | None
) -> TwoTower:
    return train_retrieval(
        data, member.config, member.folder, console, processes, start=member.start
    )


def _batched(members: Sequence[Member], size: int) -> Iterator[Sequence[Member]]:
    for start in range(0, len(members), size):
        yield members[start : start + size]
