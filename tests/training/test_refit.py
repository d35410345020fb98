"""The second fit goes on from the measured one with every watch."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.training.conftest import REFITTED as DATASET
from vireo.server.home import Home
from vireo.server.releases import layout
from vireo.server.releases.manifest import Manifest
from vireo.training import refit as refitting
from vireo.training.checkpoint import CheckpointError
from vireo.training.data.dataset import load_dataset
from vireo.training.features.watches import load_watches
from vireo.training.profile import load_profile
from vireo.training.refit import refit, refit_config
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.sequences import SequenceFile
from vireo.training.run import Run
from vireo.training.train import train_all

pytestmark = pytest.mark.slow


@pytest.fixture
def home(refitted_home: Home, tmp_path: Path) -> Home:
    """A copy whose second fit is still to be made."""
    shutil.copytree(refitted_home.root, tmp_path / "home", symlinks=True)
    own = Home(tmp_path / "home")
    Run(own.run(DATASET)).forget()
    return own


def refitted(home: Home, console: Console | None = None) -> Manifest:
    console = console or Console(file=io.StringIO(), width=200)
    settings = load_profile("quick")
    return refit(home, home.measuring, load_dataset(home, DATASET), settings, console)


def test_the_towers_learn_from_every_watch(refitted_home: Home) -> None:
    tables = load_dataset(refitted_home, DATASET)
    sequences = SequenceFile(Run(refitted_home.run(DATASET)).sequences)
    learned = RetrievalData.open(sequences, tables.videos, tables.viewers)
    assert learned.watch_count == len(load_watches(refitted_home, DATASET))
    assert not learned.validation
    assert len(learned.last_watches) > 0


def test_the_towers_have_moved_a_little_from_the_measured_ones(refitted_home: Home) -> None:
    served, measured = (
        np.load(each.staged_release(DATASET) / layout.VIDEO_VECTORS)
        for each in (refitted_home, refitted_home.measuring)
    )
    moved = np.linalg.norm(served - measured) / np.linalg.norm(measured)
    assert moved > 0.005, "a fit that learns nothing of the newest watches isn't worth its time"
    cosines = (served * measured).sum(1) / np.linalg.norm(served, axis=1)
    cosines /= np.linalg.norm(measured, axis=1)
    assert np.median(cosines) > 0.9, "the ranker reads them as it has learned to"


def test_the_ranker_is_the_measured_one(refitted_home: Home) -> None:
    served, measured = (
        Manifest.read(each.staged_release(DATASET))
        for each in (refitted_home, refitted_home.measuring)
    )
    assert served.files[layout.RANKER] == measured.files[layout.RANKER]
    assert served.files[layout.GOLDEN_RANKER] != measured.files[layout.GOLDEN_RANKER]
    assert served.score_weights == measured.score_weights
    assert served.candidates == measured.candidates


def test_an_interrupted_refit_resumes(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(refitting, "take_ranker", interrupted)
        with pytest.raises(KeyboardInterrupt):
            refitted(home)
    assert not home.staged_release(DATASET).exists()
    console = Console(file=io.StringIO(), width=200)
    manifest = refitted(home, console)
    assert isinstance(console.file, io.StringIO)
    assert "resuming from the checkpoint, 100% done" in console.file.getvalue()
    assert Manifest.read(home.staged_release(DATASET)) == manifest


def test_other_towers_to_start_from_start_it_afresh(home: Home) -> None:
    refitted(home)
    train_all(home, DATASET, "quick", seed=1, refit=False, console=Console(file=io.StringIO()))
    console = Console(file=io.StringIO(), width=200)
    refitted(home, console)
    assert isinstance(console.file, io.StringIO)
    assert "the checkpoint has other start" in console.file.getvalue()


def test_without_the_first_fits_checkpoint_the_error_says_what_to_do(home: Home) -> None:
    shutil.rmtree(Run(home.measuring.run(DATASET)).checkpoints)
    with pytest.raises(CheckpointError, match="train again with --fresh"):
        refitted(home)


def test_a_refit_has_an_eighth_of_the_epochs_and_at_least_one() -> None:
    quality, quick = (load_profile(name).retrieval for name in ("quality", "quick"))
    assert (refit_config(quality).epochs, refit_config(quick).epochs) == (3, 1)
    assert refit_config(quality).learning_rate == quality.learning_rate / 4
    assert refit_config(quality).min_steps == round(quality.min_steps / 8)
