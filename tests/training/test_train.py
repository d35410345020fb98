"""What is served has learned from every watch; what is measured has not seen those held out."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from tests.builders.datasets import random_interactions, write_small_dataset
from vireo.server.errors import VireoError
from vireo.server.features.keys import video_key
from vireo.server.features.online_store import read_viewer
from vireo.server.home import Home
from vireo.server.releases import layout
from vireo.server.releases.manifest import Manifest
from vireo.training.data.dataset import DatasetMissingError, load_dataset
from vireo.training.features.watches import Split, load_watches
from vireo.training.fit import train_all
from vireo.training.retrieval.data import RetrievalData
from vireo.training.run import only_training

DATASET = "refitted"


def trained(home: Home, dataset: str = DATASET, **options: Any) -> tuple[Manifest, str]:
    output = io.StringIO()
    console = Console(file=output, width=200)
    return train_all(home, dataset, "quick", console=console, **options), output.getvalue()


@pytest.fixture
def copy(refitted_home: Home, tmp_path: Path) -> Home:
    root = shutil.copytree(refitted_home.root, tmp_path / "home", symlinks=True)
    return Home(Path(root))


@pytest.mark.slow
def test_what_is_served_knows_every_watch_and_what_is_measured_not_those_held_out(
    refitted_home: Home,
) -> None:
    served, measured = refitted_home, refitted_home.measuring
    watches, split = load_watches(served, DATASET), load_watches(measured, DATASET)
    columns = ["viewer_id", "video_id", "time"]
    pd.testing.assert_frame_equal(watches[columns], split[columns])
    assert [Split.load(home, DATASET).holdout for home in (served, measured)] == ["none", "last"]
    newest = watches.drop_duplicates("viewer_id", keep="last").set_index("viewer_id")["video_id"]
    held_out = split.query("part == 'test'").set_index("viewer_id")["video_id"]
    for viewer_id, video_id in held_out.head(20).items():
        assert newest.at[viewer_id] == video_id
        online = read_viewer(served.features(DATASET), str(viewer_id))
        assert online.history_keys[-1] == video_key(video_id)
        known = read_viewer(measured.features(DATASET), str(viewer_id))
        assert video_key(video_id) not in known.watched_keys
    tables = load_dataset(served, DATASET)
    learned = RetrievalData.build(watches, tables.videos, tables.viewers)
    assert learned.watch_count == len(watches)
    assert not learned.validation
    assert learned.last_watches


@pytest.mark.slow
def test_the_released_fit_has_the_ranker_figures_and_files_of_its_measured_twin(
    refitted_home: Home,
) -> None:
    served, twin = (
        Manifest.read(each.staged_release(DATASET))
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
    inside = refitted_home.staged_release(DATASET) / layout.MEASURED
    assert Manifest.read(inside) == twin
    for path, entry in twin.files.items():
        assert served.files[f"{layout.MEASURED}/{path}"] == entry
    assert f"{layout.MEASURED}/manifest.json" in served.files


@pytest.mark.slow
def test_training_again_fits_neither_again_unless_it_starts_afresh(
    refitted_home: Home, copy: Home
) -> None:
    again, said = trained(refitted_home)
    assert again == Manifest.read(refitted_home.staged_release(DATASET))
    assert said.count("nothing to do") == 2
    _, said = trained(copy, fresh=True)
    assert said.count("1 of 5") == 1
    assert "nothing to do" not in said


@pytest.mark.slow
def test_without_a_second_fit_the_measured_release_is_staged(copy: Home) -> None:
    shutil.rmtree(copy.features(DATASET))
    manifest, _ = trained(copy, refit=False)
    assert manifest.holdout == "last"
    assert Manifest.read(copy.staged_release(DATASET)) == manifest
    assert Split.load(copy, DATASET).holdout == "none", "viewers are served with every watch"


def test_an_unknown_data_set_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetMissingError, match="vireo data fetch ml-100k"):
        trained(Home(tmp_path), "ml-100k")


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
