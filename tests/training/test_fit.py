"""The measured fit, and the second one, which goes on from it with every watch."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from tests.builders.datasets import random_interactions, write_small_dataset
from tests.builders.fits import fit_measured
from vireo.server.event_log.log import BEGIN, Position
from vireo.server.features.model_inputs import feature_constants
from vireo.server.features.online_store import read_viewer
from vireo.server.home import Home
from vireo.server.recommend.catalogue.takedowns import Takedowns
from vireo.server.releases import layout
from vireo.server.releases.manifest import Manifest
from vireo.training import fit as fitting
from vireo.training.data.dataset import LogPositions, describe_dataset, load_dataset
from vireo.training.features.watches import load_watches
from vireo.training.fit import fit_to_every_watch, refit_config, train_all
from vireo.training.modules import CheckpointError
from vireo.training.profile import load_profile
from vireo.training.ranking.training_set import RankingSet, load_ranking_set
from vireo.training.release.stage import stage_retrieval
from vireo.training.run import Run

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
    manifest = fit_to_every_watch(
        home, home.measuring, load_dataset(home, REFITTED), settings, console
    )
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
    assert "resuming" not in refitted(second)[1]
    Run(second.run(REFITTED)).forget()
    shutil.rmtree(Run(second.measuring.run(REFITTED)).checkpoints)
    with pytest.raises(CheckpointError, match="train again with --fresh"):
        refitted(second)


def test_a_refit_has_an_eighth_of_the_epochs_and_at_least_one() -> None:
    quality, quick = (load_profile(name).retrieval for name in ("quality", "quick"))
    assert (refit_config(quality).epochs, refit_config(quick).epochs) == (3, 1)
    assert refit_config(quality).learning_rate == quality.learning_rate / 4
    assert refit_config(quality).min_steps == round(quality.min_steps / 8)


FEATURES = ("viewer_profile", "viewer_activity", "video_statistics")
MEASURED_ON_THE_TEST = {"reference.npz"}
NUMBERED_BY_EXPORT = {layout.VIEWER_TOWER}
"""Notes of where its operations come from differ from export to export; its goldens don't."""


def columns_of(data: RankingSet) -> dict[str, np.ndarray]:
    return {
        f"{part}.{name}": column
        for part in ("watches", "outcomes")
        for own in [getattr(data, part)]
        for name, column in (vars(own) | vars(own.viewers)).items()
        if name != "viewers"
    }


def with_another_end(interactions: pd.DataFrame, watches: pd.DataFrame) -> pd.DataFrame:
    """Viewers watch something else in the test part, and then like and hide what they know."""
    test = watches[watches["part"] == "test"].set_index("viewer_id")["video_id"]
    changed = interactions["viewer_id"].map(test) == interactions["video_id"]
    assert changed.sum() >= len(test) > 30
    interactions.loc[changed, ["video_id", "watched_fraction"]] = "v59", 0.99
    train = watches[(watches["part"] == "train") & watches["viewer_id"].isin(test.index)]
    ends = interactions.groupby("viewer_id")["timestamp"].max() + pd.Timedelta(days=1)
    likes, hides = (
        own[["viewer_id", "video_id"]].assign(event=event, timestamp=own["viewer_id"].map(ends))
        # Who has hidden the only watch of the train part has too few to hold any out.
        for event, some in (("like", train), ("hide", train[train.duplicated("viewer_id")]))
        for own in [some.drop_duplicates("viewer_id", keep="last")]
    )
    every = pd.concat([interactions, likes, hides], ignore_index=True)
    every["row"], every["held_out"] = np.arange(1, len(every) + 1), False
    return every.sort_values(["timestamp", "row"], ignore_index=True)


def test_another_end_of_all_histories_makes_the_same_features_ranking_set_and_release(
    trained_home: Home,
    trained_watches: pd.DataFrame,
    ranking_set: RankingSet,
    manifest: Manifest,
    tmp_path: Path,
) -> None:
    home, test = Home(tmp_path), trained_watches[trained_watches["part"] == "test"]
    write_small_dataset(home, "trained", with_another_end(random_interactions(), trained_watches))

    other = fit_measured(home, "trained")

    watches = load_watches(home, "trained")
    assert set(watches.loc[watches["part"] == "test", "video_id"]) == {"v59"}
    theirs, ours = (each.features("trained") for each in (home, trained_home))
    for name in FEATURES:
        table = f"{name}.parquet"
        assert (theirs / table).read_bytes() == (ours / table).read_bytes(), name
    for viewer in test["viewer_id"].head():
        assert read_viewer(theirs, viewer) == read_viewer(ours, viewer)
    run = Run(home.run("trained"))
    made = load_ranking_set(run.ranking_set, run.finished_inputs())
    assert made is not None
    for name, column in columns_of(made).items():
        np.testing.assert_array_equal(column, columns_of(ranking_set)[name], name)
    differing = {path for path, entry in manifest.files.items() if other.files[path] != entry}
    assert differing <= MEASURED_ON_THE_TEST | NUMBERED_BY_EXPORT
