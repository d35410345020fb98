"""Both fits: what each has learned from, how it resumes, and what is served of it."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from tests.builders.datasets import random_interactions, write_small_dataset
from tests.builders.fits import fit_measured
from vireo.server.errors import VireoError
from vireo.server.event_log.log import BEGIN, Position
from vireo.server.features.keys import video_key
from vireo.server.features.model_inputs import feature_constants
from vireo.server.features.online_store import read_viewer
from vireo.server.home import Home
from vireo.server.recommend.catalogue.overlay import Takedowns
from vireo.server.releases import layout
from vireo.server.releases.manifest import Manifest
from vireo.training import fit as fitting
from vireo.training.data.dataset import (
    LogPositions,
    describe_dataset,
    load_dataset,
)
from vireo.training.features.watches import Split, load_watches
from vireo.training.fit import fit_to_every_watch, refit_config, train_all
from vireo.training.modules import CheckpointError
from vireo.training.profile import load_profile
from vireo.training.ranking.training_set import RankingSet, load_ranking_set
from vireo.training.release.stage import stage_retrieval
from vireo.training.retrieval.data import RetrievalData
from vireo.training.run import Run, only_training

TRAINED, REFITTED = "trained", "refitted"


@pytest.fixture
def home(trained_home: Home, tmp_path: Path) -> Home:
    """A copy of the trained home, to train on in."""
    return Home(Path(shutil.copytree(trained_home.root, tmp_path / "home")))


def said_by(train: Callable[[Console], Manifest]) -> tuple[Manifest, str]:
    """The manifest of a training, and what it said."""
    output = io.StringIO()
    return train(Console(file=output, width=200)), output.getvalue()


def fitted(home: Home, **options: Any) -> tuple[Manifest, str]:
    return said_by(lambda console: fit_measured(home, TRAINED, console=console, **options))


def trained(home: Home, dataset: str = REFITTED, **options: Any) -> tuple[Manifest, str]:
    return said_by(lambda console: train_all(home, dataset, "quick", console=console, **options))


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
def copy(refitted_home: Home, tmp_path: Path) -> Home:
    """A copy of the home with both fits, to train on in."""
    return Home(Path(shutil.copytree(refitted_home.root, tmp_path / "home", symlinks=True)))


@pytest.fixture
def second(copy: Home) -> Home:
    """A home with both fits whose second one is still to be made."""
    Run(copy.run(REFITTED)).forget()
    return copy


def refitted(home: Home) -> tuple[Manifest, str]:
    dataset, settings = load_dataset(home, REFITTED), load_profile("quick")
    return said_by(
        lambda console: fit_to_every_watch(home, home.measuring, dataset, settings, console)
    )


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
    trained(second, seed=1, refit=False)
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
    np.testing.assert_equal(asdict(made), asdict(ranking_set))
    differing = {path for path, entry in manifest.files.items() if other.files[path] != entry}
    assert differing <= MEASURED_ON_THE_TEST | NUMBERED_BY_EXPORT


def test_what_is_served_knows_every_watch_and_what_is_measured_not_those_held_out(
    refitted_home: Home,
) -> None:
    served, measured = refitted_home, refitted_home.measuring
    watches, split = load_watches(served, REFITTED), load_watches(measured, REFITTED)
    columns = ["viewer_id", "video_id", "time"]
    pd.testing.assert_frame_equal(watches[columns], split[columns])
    assert [Split.load(home, REFITTED).holdout for home in (served, measured)] == ["none", "last"]
    newest = watches.drop_duplicates("viewer_id", keep="last").set_index("viewer_id")["video_id"]
    held_out = split.query("part == 'test'").set_index("viewer_id")["video_id"]
    for viewer_id, video_id in held_out.head(20).items():
        assert newest.at[viewer_id] == video_id
        online = read_viewer(served.features(REFITTED), str(viewer_id))
        assert online.history_keys[-1] == video_key(video_id)
        known = read_viewer(measured.features(REFITTED), str(viewer_id))
        assert video_key(video_id) not in known.watched_keys
    tables = load_dataset(served, REFITTED)
    learned = RetrievalData.build(watches, tables.videos, tables.viewers)
    assert learned.watch_count == len(watches)
    assert not learned.validation
    assert learned.last_watches


def test_the_released_fit_has_the_ranker_figures_and_files_of_its_measured_twin(
    refitted_home: Home,
) -> None:
    served, twin = (
        Manifest.read(each.staged_release(REFITTED))
        for each in (refitted_home, refitted_home.measuring)
    )
    assert (served.holdout, twin.holdout) == ("none", "last")
    assert served.measured == twin.release_id
    assert not twin.measured
    assert "chain.ndcg_10" in served.metrics
    for name in ("metrics", "score_weights", "quotas", "candidates"):
        assert getattr(served, name) == getattr(twin, name), name
    assert served.files[layout.RANKER] == twin.files[layout.RANKER]
    assert served.files[layout.GOLDEN_RANKER] != twin.files[layout.GOLDEN_RANKER]
    inside = refitted_home.staged_release(REFITTED) / layout.MEASURED
    assert Manifest.read(inside) == twin
    for path, entry in twin.files.items():
        assert served.files[f"{layout.MEASURED}/{path}"] == entry
    assert f"{layout.MEASURED}/manifest.json" in served.files


def test_training_again_fits_neither_again_unless_it_starts_afresh(
    refitted_home: Home, copy: Home
) -> None:
    again, said = trained(refitted_home)
    assert again == Manifest.read(refitted_home.staged_release(REFITTED))
    assert said.count("nothing to do") == 2
    _, said = trained(copy, fresh=True)
    assert said.count("1 of 5") == 1
    assert "nothing to do" not in said


def test_without_a_second_fit_the_measured_release_is_staged(copy: Home) -> None:
    shutil.rmtree(copy.features(REFITTED))
    manifest, _ = trained(copy, refit=False)
    assert manifest.holdout == "last"
    assert Manifest.read(copy.staged_release(REFITTED)) == manifest
    assert Split.load(copy, REFITTED).holdout == "none", "viewers are served with every watch"


HOLDER = """
import pathlib, sys
from vireo.server.home import Home
from vireo.training.run import only_training
with only_training(Home(pathlib.Path(sys.argv[1])), "small"):
    print("holds", flush=True)
    sys.stdin.read()
"""


def test_a_second_training_of_a_data_set_is_refused_until_the_first_has_ended(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path)
    write_small_dataset(home, "small", random_interactions())
    command, pipe = [sys.executable, "-c", HOLDER, str(tmp_path)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        with pytest.raises(VireoError, match=f"process {holder.pid} is training on small"):
            trained(home, "small", fresh=True)
        with only_training(home, "other"):
            pass
        holder.kill()
    with only_training(home, "small"):
        pass
