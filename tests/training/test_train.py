"""What is served has learned from every watch; what is measured has not seen those held out."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from tests.training.conftest import REFITTED as DATASET
from vireo.server.features.keys import video_key
from vireo.server.features.online_store import read_viewer
from vireo.server.home import Home
from vireo.server.releases import layout
from vireo.server.releases.manifest import Manifest
from vireo.training.data.dataset import DatasetMissingError
from vireo.training.features.watches import Split, load_watches
from vireo.training.train import train_all

pytestmark = pytest.mark.slow


@pytest.fixture
def served(refitted_home: Home) -> Manifest:
    return Manifest.read(refitted_home.staged_release(DATASET))


def test_viewers_are_served_with_their_newest_watch(refitted_home: Home) -> None:
    watches = load_watches(refitted_home, DATASET)
    newest = watches.drop_duplicates("viewer_id", keep="last")
    held_out = load_watches(refitted_home.measuring, DATASET).query("part == 'test'")
    assert set(zip(held_out["viewer_id"], held_out["video_id"], strict=True)) <= set(
        zip(newest["viewer_id"], newest["video_id"], strict=True)
    )
    for viewer_id, video_id in newest[["viewer_id", "video_id"]].head(20).itertuples(index=False):
        online = read_viewer(refitted_home.features(DATASET), viewer_id)
        assert online.history_keys[-1] == video_key(video_id)


def test_measuring_knows_nothing_of_the_held_out_watches(refitted_home: Home) -> None:
    held_out = load_watches(refitted_home.measuring, DATASET).query("part == 'test'")
    for viewer_id, video_id in held_out[["viewer_id", "video_id"]].head(20).itertuples(index=False):
        online = read_viewer(refitted_home.measuring.features(DATASET), viewer_id)
        assert video_key(video_id) not in online.watched_keys


def test_the_released_fit_has_the_figures_and_the_files_of_its_measured_twin(
    refitted_home: Home, served: Manifest
) -> None:
    twin = Manifest.read(refitted_home.measuring.staged_release(DATASET))
    assert (served.holdout, twin.holdout) == ("none", "last")
    assert served.measured == twin.release_id
    assert not twin.measured
    assert served.metrics == twin.metrics
    assert "chain.ndcg_10" in served.metrics
    assert served.score_weights == twin.score_weights
    assert served.quotas == twin.quotas
    inside = refitted_home.staged_release(DATASET) / layout.MEASURED
    assert Manifest.read(inside) == twin
    for path, entry in twin.files.items():
        assert served.files[f"{layout.MEASURED}/{path}"] == entry
    assert f"{layout.MEASURED}/manifest.json" in served.files


def test_each_fit_has_features_of_its_own(refitted_home: Home) -> None:
    assert Split.load(refitted_home, DATASET).holdout == "none"
    assert Split.load(refitted_home.measuring, DATASET).holdout == "last"


def test_training_again_fits_neither_again(refitted_home: Home, served: Manifest) -> None:
    console = Console(file=io.StringIO(), width=200)
    assert train_all(refitted_home, DATASET, "quick", console=console) == served
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("nothing to do") == 2


def test_without_a_second_fit_the_measured_release_is_staged(
    refitted_home: Home, tmp_path: Path
) -> None:
    shutil.copytree(refitted_home.root, tmp_path / "home", symlinks=True)
    home = Home(tmp_path / "home")
    shutil.rmtree(home.features(DATASET))
    manifest = train_all(home, DATASET, "quick", refit=False, console=Console(file=io.StringIO()))
    assert manifest.holdout == "last"
    assert Manifest.read(home.staged_release(DATASET)) == manifest
    assert Split.load(home, DATASET).holdout == "none", "viewers are served with every watch"


def test_the_features_of_both_are_of_the_same_watches(refitted_home: Home) -> None:
    columns = ["viewer_id", "video_id", "time"]
    served, measured = (
        load_watches(home, DATASET)[columns] for home in (refitted_home, refitted_home.measuring)
    )
    pd.testing.assert_frame_equal(served, measured)


def test_a_fresh_start_forgets_both_fits(refitted_home: Home, tmp_path: Path) -> None:
    shutil.copytree(refitted_home.root, tmp_path / "home", symlinks=True)
    console = Console(file=io.StringIO(), width=200)
    train_all(Home(tmp_path / "home"), DATASET, "quick", fresh=True, console=console)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("1 of 5") == 1
    assert "nothing to do" not in console.file.getvalue()


def test_an_unknown_data_set_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetMissingError, match="vireo data fetch ml-100k"):
        train_all(Home(tmp_path), "ml-100k", "quick")
