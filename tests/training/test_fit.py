"""The measured fit, and the second one, which goes on from it with every watch."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.builders.fits import fit_measured
from vireo.server.event_log.log import BEGIN, Position
from vireo.server.features.model_inputs import feature_constants
from vireo.server.home import Home
from vireo.server.recommend.catalogue.takedowns import Takedowns
from vireo.server.releases import layout
from vireo.server.releases.manifest import Manifest
from vireo.training import fit as fitting
from vireo.training.checkpoint import CheckpointError
from vireo.training.data.dataset import LogPositions, describe_dataset, load_dataset
from vireo.training.fit import refit, refit_config
from vireo.training.profile import load_profile
from vireo.training.release.stage import stage_retrieval
from vireo.training.run import Run
from vireo.training.train import train_all

pytestmark = pytest.mark.slow
TRAINED, REFITTED = "trained", "refitted"


@pytest.fixture
def home(trained_home: Home, tmp_path: Path) -> Home:
    """A copy of the trained home, to train on in."""
    return Home(Path(shutil.copytree(trained_home.root, tmp_path / "home")))


def fitted(home: Home, **options: Any) -> tuple[Manifest, str]:
    """The manifest of a fit, and what was said."""
    output = io.StringIO()
    manifest = fit_measured(home, TRAINED, console=Console(file=output, width=200), **options)
    return manifest, output.getvalue()


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def stopped(home: Home, seed: int) -> str:
    """What a fit says until it is interrupted."""
    output = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        fit_measured(home, TRAINED, seed=seed, console=Console(file=output, width=200))
    return output.getvalue()


def test_features_that_are_computed_otherwise_make_a_new_training_set(
    home: Home, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = feature_constants() | {"co_watch.history": 3.0}
    monkeypatch.setattr("vireo.server.releases.manifest.feature_constants", lambda: constants)
    ranking_set = Run(home.run(TRAINED)).ranking_set
    before = ranking_set.stat().st_mtime_ns
    other, said = fitted(home)
    assert other != manifest
    assert ranking_set.stat().st_mtime_ns != before
    assert "1 of 5" in said


def test_a_run_interrupted_after_retrieval_resumes_from_its_own_draft(
    home: Home, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def staged_and_interrupted(*arguments: Any) -> None:
        stage_retrieval(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "build_ranking_set", interrupted)
        assert "1 of 5" in stopped(home, seed=5)
        assert "1 of 5" not in stopped(home, seed=5)
        with patch.context() as other:
            other.setattr(fitting, "stage_retrieval", staged_and_interrupted)
            stopped(home, seed=6)
        assert "1 of 5" in stopped(home, seed=5), "the draft is another run's"
    staged = home.staged_release(TRAINED)
    assert Manifest.read(staged) == manifest, "the old release stays"
    resumed, said = fitted(home, seed=5)
    assert "1 of 5" not in said
    assert "4 of 5" in said
    assert Manifest.read(staged) == resumed != manifest


def test_the_same_seed_gives_the_same_release_with_the_position_and_takedowns_of_its_data(
    home: Home, manifest: Manifest
) -> None:
    info = describe_dataset(home, TRAINED)
    moved = info.model_copy(update={"log_positions": LogPositions(catalogue=Position(42))})
    (home.data(TRAINED) / "dataset.json").write_text(moved.model_dump_json())
    Takedowns().write(home.data(TRAINED) / layout.TAKEDOWNS)
    Run(home.run(TRAINED)).forget()
    with contextlib.redirect_stdout(io.StringIO()) as result:
        fresh, said = fitted(home)
    assert not result.getvalue(), "standard output is for the result alone"
    assert "1 of 5" in said
    models = {path: entry for path, entry in manifest.files.items() if path.endswith(".npy")}
    assert {path: fresh.files[path] for path in models} == models
    assert fresh.metrics == pytest.approx(manifest.metrics)
    positions = [each.catalog_log_position for each in (manifest, fresh)]
    assert positions == [BEGIN, Position(42)]
    assert [layout.TAKEDOWNS in each.files for each in (manifest, fresh)] == [False, True]


@pytest.fixture
def second(refitted_home: Home, tmp_path: Path) -> Home:
    """A copy of a home with both fits whose second one is still to be made."""
    root = shutil.copytree(refitted_home.root, tmp_path / "home", symlinks=True)
    Run(Home(Path(root)).run(REFITTED)).forget()
    return Home(Path(root))


def refitted(home: Home) -> tuple[Manifest, str]:
    output, settings = io.StringIO(), load_profile("quick")
    console = Console(file=output, width=200)
    manifest = refit(home, home.measuring, load_dataset(home, REFITTED), settings, console)
    return manifest, output.getvalue()


def test_the_towers_have_moved_a_little_from_the_measured_ones(refitted_home: Home) -> None:
    served, measured = (
        np.load(each.staged_release(REFITTED) / layout.VIDEO_VECTORS)
        for each in (refitted_home, refitted_home.measuring)
    )
    moved = np.linalg.norm(served - measured) / np.linalg.norm(measured)
    assert moved > 0.005, "a fit that learns nothing of the newest watches isn't worth its time"
    cosines = (served * measured).sum(1) / np.linalg.norm(served, axis=1)
    cosines /= np.linalg.norm(measured, axis=1)
    assert np.median(cosines) > 0.9, "the ranker reads them as it has learned to"


def test_an_interrupted_refit_resumes(second: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "take_ranker", interrupted)
        with pytest.raises(KeyboardInterrupt):
            refitted(second)
    assert not second.staged_release(REFITTED).exists()
    manifest, said = refitted(second)
    assert "resuming from the checkpoint, 100% done" in said
    assert Manifest.read(second.staged_release(REFITTED)) == manifest


def test_other_towers_to_start_from_start_it_afresh_and_none_is_an_error(second: Home) -> None:
    refitted(second)
    train_all(second, REFITTED, "quick", seed=1, refit=False, console=Console(file=io.StringIO()))
    assert "the checkpoint has other start" in refitted(second)[1]
    Run(second.run(REFITTED)).forget()
    shutil.rmtree(Run(second.measuring.run(REFITTED)).checkpoints)
    with pytest.raises(CheckpointError, match="train again with --fresh"):
        refitted(second)


def test_a_refit_has_an_eighth_of_the_epochs_and_at_least_one() -> None:
    quality, quick = (load_profile(name).retrieval for name in ("quality", "quick"))
    assert (refit_config(quality).epochs, refit_config(quick).epochs) == (3, 1)
    assert refit_config(quality).learning_rate == quality.learning_rate / 4
    assert refit_config(quality).min_steps == round(quality.min_steps / 8)
