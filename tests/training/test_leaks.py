"""What viewers watch in the test part changes nothing that training makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tests.builders.datasets import random_interactions, write_small_dataset
from tests.builders.fits import fit_measured
from vireo.server.features.online_store import read_viewer
from vireo.server.home import Home
from vireo.server.releases.manifest import Manifest
from vireo.training.features.watches import load_watches
from vireo.training.ranking.storage import load_ranking_set
from vireo.training.ranking.training_set import RankingSet
from vireo.training.run import Run

FEATURES = ("viewer_profile", "viewer_activity", "video_statistics")
MEASURED_ON_THE_TEST = {"reference.npz"}


def columns_of(data: RankingSet) -> dict[str, np.ndarray]:
    return {
        f"{part}.{name}": column
        for part in ("watches", "outcomes")
        for own in [getattr(data, part)]
        for name, column in (vars(own) | vars(own.viewers)).items()
        if name != "viewers"
    }


def test_other_watches_in_the_test_part_make_the_same_features_ranking_set_and_release(
    trained_home: Home,
    trained_watches: pd.DataFrame,
    ranking_set: RankingSet,
    manifest: Manifest,
    tmp_path: Path,
) -> None:
    # Every test watch becomes one of a video that nobody else watches, to its end.
    home, interactions = Home(tmp_path), random_interactions()
    test = trained_watches[trained_watches["part"] == "test"].set_index("viewer_id")["video_id"]
    changed = interactions["viewer_id"].map(test) == interactions["video_id"]
    assert changed.sum() >= len(test) > 30
    interactions.loc[changed, ["video_id", "watched_fraction"]] = "v59", 0.99
    write_small_dataset(home, "trained", interactions)

    other = fit_measured(home, "trained")

    watches = load_watches(home, "trained")
    assert set(watches.loc[watches["part"] == "test", "video_id"]) == {"v59"}
    theirs, ours = (each.features("trained") for each in (home, trained_home))
    for name in FEATURES:
        table = f"{name}.parquet"
        assert (theirs / table).read_bytes() == (ours / table).read_bytes(), name
    for viewer in test.index[:5]:
        assert read_viewer(theirs, viewer) == read_viewer(ours, viewer)
    run = Run(home.run("trained"))
    made = load_ranking_set(run.ranking_set, run.finished_inputs())
    assert made is not None
    for name, column in columns_of(made).items():
        np.testing.assert_array_equal(column, columns_of(ranking_set)[name], name)
    differing = {path for path, entry in manifest.files.items() if other.files[path] != entry}
    assert differing <= MEASURED_ON_THE_TEST
