"""Train further pairs of towers in child processes while this process trains another."""

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
