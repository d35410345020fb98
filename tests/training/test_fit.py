from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.builders.fits import fit_measured
from vireo.server.event_log.position import BEGIN, Position
from vireo.server.features.constants import feature_constants
from vireo.server.home import Home
from vireo.server.live.takedowns import Takedowns
from vireo.server.releases import layout
from vireo.server.releases.manifest import Manifest
from vireo.training import fit as fitting
from vireo.training import inputs
from vireo.training.data.dataset import LogPositions, describe_dataset
from vireo.training.release.stage import stage_retrieval
from vireo.training.run import Run

pytestmark = pytest.mark.slow


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def home(trained_home: Home, tmp_path: Path) -> Home:
    """A copy of the trained home, to train on in."""
    shutil.copytree(trained_home.root, tmp_path / "home")
    return Home(tmp_path / "home")


def test_training_again_with_the_same_settings_does_nothing(
    home: Home, manifest: Manifest, console: Console
) -> None:
    assert fit_measured(home, "trained", console=console) == manifest
    assert f"nothing to do: {manifest.release_id}" in said(console)
    assert "1 of 5" not in said(console)


def test_features_that_are_computed_otherwise_make_a_new_training_set(
    home: Home, manifest: Manifest, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = feature_constants() | {"co_watch.history": 3.0}
    monkeypatch.setattr("vireo.server.releases.manifest.feature_constants", lambda: constants)
    ranking_set = Run(home.run("trained")).ranking_set
    before = ranking_set.stat().st_mtime_ns
    assert fit_measured(home, "trained", console=console) != manifest
    assert ranking_set.stat().st_mtime_ns != before
    assert "1 of 5" in said(console)


def test_a_run_interrupted_after_retrieval_resumes_there(
    home: Home, manifest: Manifest, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "build_ranking_set", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit_measured(home, "trained", seed=5, console=console)
    assert "1 of 5" in said(console)
    assert Manifest.read(home.staged_release("trained")) == manifest, "the old release stays"

    again = Console(file=io.StringIO(), width=200)
    resumed = fit_measured(home, "trained", seed=5, console=again)
    assert "1 of 5" not in said(again)
    assert "4 of 5" in said(again)
    assert Manifest.read(home.staged_release("trained")) == resumed != manifest


def test_a_draft_that_another_run_left_behind_is_not_taken_for_this_runs(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def staged_and_interrupted(*arguments: Any) -> None:
        stage_retrieval(*arguments)
        raise KeyboardInterrupt

    def run(seed: int) -> str:
        console = Console(file=io.StringIO(), width=200)
        with pytest.raises(KeyboardInterrupt):
            fit_measured(home, "trained", seed=seed, console=console)
        return said(console)

    monkeypatch.setattr(fitting, "build_ranking_set", interrupted)
    run(5)
    assert "1 of 5" not in run(5), "its own draft is"
    with monkeypatch.context() as patch:
        patch.setattr(inputs, "stage_retrieval", staged_and_interrupted)
        run(6)
    assert "1 of 5" in run(5)


@pytest.fixture(scope="module")
def fit_again(trained_home: Home, tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, str]:
    """A fit as it was made before, of data up to another position in the log; and what it said."""
    root = tmp_path_factory.mktemp("again") / "home"
    shutil.copytree(trained_home.root, root)
    home, console = Home(root), Console(file=io.StringIO(), width=200)
    info = describe_dataset(home, "trained")
    positions = info.model_copy(update={"log_positions": LogPositions(catalogue=Position(42))})
    (home.data("trained") / "dataset.json").write_text(positions.model_dump_json())
    Takedowns().write(home.data("trained") / layout.TAKEDOWNS)
    Run(home.run("trained")).forget()
    with contextlib.redirect_stdout(io.StringIO()) as result:
        fresh = fit_measured(home, "trained", console=console)
    assert not result.getvalue(), "standard output is for the result alone"
    return fresh, said(console)


def test_the_same_seed_gives_the_same_release(
    fit_again: tuple[Manifest, str], manifest: Manifest
) -> None:
    fresh, output = fit_again
    assert "1 of 5" in output
    models = {path: entry for path, entry in manifest.files.items() if path.endswith(".npy")}
    assert {path: fresh.files[path] for path in models} == models
    assert fresh.metrics == pytest.approx(manifest.metrics)


def test_the_release_says_up_to_where_its_data_has_the_catalogues_changes(
    fit_again: tuple[Manifest, str], manifest: Manifest
) -> None:
    fresh, _ = fit_again
    assert manifest.catalog_log_position == BEGIN
    assert fresh.catalog_log_position == Position(42)


def test_the_release_has_the_takedowns_of_its_data(
    fit_again: tuple[Manifest, str], manifest: Manifest
) -> None:
    fresh, _ = fit_again
    assert layout.TAKEDOWNS in fresh.files
    assert layout.TAKEDOWNS not in manifest.files
