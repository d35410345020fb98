"""Members that are trained in processes of their own."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from io import StringIO
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest
import torch
from rich.console import Console

from tests.builders.waiting import wait_until
from training.retrieval import ensemble
from training.retrieval.config import RetrievalConfig
from training.retrieval.data import RetrievalData
from training.retrieval.ensemble import Member, train_towers, trained_aside
from training.retrieval.train import CHECKPOINT, CURVE

pytestmark = pytest.mark.slow

_START_SECONDS = 200


@pytest.fixture
def endless(small: RetrievalConfig, tmp_path: Path) -> Member:
    """A training that a test ends."""
    config = replace(small, epochs=1_000_000, validate_every=1_000_000, threads=1)
    return Member(config, tmp_path / "endless")


def test_members_trained_at_once_are_those_trained_one_after_the_other(
    ring: RetrievalData, small: RetrievalConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(small, members=3, epochs=2, threads=1)
    made, taken_over = [], []
    for cores in (1, 2):
        monkeypatch.setattr(ensemble, "cores", lambda cores=cores: cores)
        output = StringIO()
        made.append(train_towers(ring, config, tmp_path / str(cores), Console(file=output)))
        taken_over.append(output.getvalue().count("from the checkpoint, 100% done"))
    assert torch.equal(made[0].video_vectors(), made[1].video_vectors())
    assert taken_over == [0, 1], "of three members on two cores one is trained aside"


def test_an_unfinished_process_keeps_its_progress_when_others_stop(
    ring: RetrievalData, endless: Member
) -> None:
    with trained_aside(ring, [endless]) as aside:
        wait_until((endless.folder / CURVE).exists, _START_SECONDS)
    assert (endless.folder / CHECKPOINT).exists()
    assert aside.processes[0].exitcode == 128 + signal.SIGTERM


def test_a_process_that_dies_is_reported_and_blocks_nothing(
    ring: RetrievalData, endless: Member, capsys: pytest.CaptureFixture[str]
) -> None:
    with trained_aside(ring, [endless]) as aside:
        wait_until((endless.folder / CURVE).exists, _START_SECONDS)
        aside.processes[0].kill()
        aside.wait()
    assert "ended with -9: resuming it in this one" in capsys.readouterr().err


def test_one_ends_with_the_process_that_began_it(ring: RetrievalData, endless: Member) -> None:
    parent = get_context("spawn").Process(target=_hold, args=(ring, endless))
    parent.start()
    assert parent.pid is not None
    wait_until((endless.folder / CURVE).exists, _START_SECONDS)
    aside = psutil.Process(parent.pid).children()
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    assert not psutil.wait_procs(aside, timeout=120)[1]
    assert (endless.folder / CHECKPOINT).exists()


def _hold(data: RetrievalData, member: Member) -> None:
    with trained_aside(data, [member]):
        time.sleep(600)
