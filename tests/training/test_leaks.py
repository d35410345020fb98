"""What viewers do in the test part or later changes nothing that training makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tests.builders.datasets import random_interactions, write_small_dataset
from tests.builders.fits import fit_measured
from vireo.server.features.online_store import read_viewer
from vireo.server.home import Home
from vireo.server.releases import layout
from vireo.server.releases.manifest import Manifest
from vireo.training.features.watches import load_watches
from vireo.training.ranking.training_set import RankingSet, load_ranking_set
from vireo.training.run import Run

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
