"""Training of some pairs of towers in processes of their own, while this one trains another."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path

from rich.console import Console

from training.retrieval.config import RetrievalConfig
from training.retrieval.data import RetrievalData
from training.retrieval.train import TrainingInterruptedError, train_retrieval


@dataclass(frozen=True)
class Member:
    """One pair of towers: how it is trained."""

    config: RetrievalConfig
    folder: Path
    """Of its checkpoint."""
    start: Path | None = None
    """Of the checkpoint of the finished training that this one starts from."""


@dataclass(frozen=True)
class Aside:
    """Processes that train a member each."""

    processes: Sequence[SpawnProcess]

    def wait(self, console: Console | None = None) -> None:
        """Returns once all have ended, however they did.

        One that failed has said why on the standard error, and its checkpoint holds what it did.
        """
        console = console or Console(stderr=True)
        for process in self.processes:
            process.join()
            if process.exitcode:
                console.print(
                    f"training aside ended with {process.exitcode}: going on with it here"
                )


@contextmanager
def trained_aside(data: RetrievalData, members: Sequence[Member]) -> Iterator[Aside]:
    """Trains each member in a process of its own meanwhile.

    Those still at it when the block is left, as by Ctrl-C, write their checkpoints and end.
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
    # Ctrl-C is for the process that a person sees: it ends this one, with one signal, not two.
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
