from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.training.data.dataset import (
    Dataset,
    DatasetInfo,
    is_example,
    load_dataset,
)
from vireo.training.data.split import split_watches
from vireo.training.data.synth.events import KINDS, Events, all_events
from vireo.training.data.synth.world import DAY, REGIONS, START, World, WorldConfig
from vireo.training.data.synth.writing import write_world
from vireo.training.evaluation.baselines.registry import fitted
from vireo.training.evaluation.metrics import hit_rate
from vireo.training.evaluation.run import TestBed
from vireo.training.evaluation.systems import of_chunks

SMALL = WorldConfig(viewers=400, videos=600, events=16_000, seed=3)


def written(
    folder: Path, config: WorldConfig = SMALL, **options: int
) -> tuple[DatasetInfo, Dataset]:
    info = write_world(Home(folder), "synth", config, **options)  # type: ignore[arg-type]
    return info, load_dataset(Home(folder), "synth")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return written(tmp_path_factory.mktemp("synth"))[1]


def test_the_same_seed_gives_the_same_files_and_another_another_world(tmp_path: Path) -> None:
    first, _ = written(tmp_path / "first")
    again, _ = written(tmp_path / "again")
    other, _ = written(tmp_path / "other", replace(SMALL, seed=4))
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint


def test_output_does_not_depend_on_the_block_size(world: Dataset, tmp_path: Path) -> None:
    _, other = written(tmp_path, rows_at_a_time=777)
    for table in ("interactions", "videos", "viewers"):
        pd.testing.assert_frame_equal(getattr(world, table), getattr(other, table))


def test_there_are_as_many_of_everything_as_were_asked_for(tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    info = write_world(Home(tmp_path), "synth", SMALL, progress=lambda *counts: done.append(counts))
    assert (info.viewers, info.videos, info.interactions) == (400, 600, 16_000)
    assert set(info.events) == set(KINDS)
    assert done[-1] == (16_000, 16_000)


def test_synthetic_data_is_example_data_and_unknown_data_is_not(world: Dataset) -> None:
    home = Home(world.folder.parent.parent)
    assert is_example(home, "synth")
    assert not is_example(home, "nowhere")
    assert not is_example(home, "../synth")


def test_interactions_are_in_order_and_of_videos_that_are_out(world: Dataset) -> None:
    events = world.interactions
    assert events["timestamp"].is_monotonic_increasing
    assert (events["row"] == np.arange(1, len(events) + 1)).all()
    out = events["video_id"].map(world.videos.set_index("video_id")["published"])
    assert (out <= events["timestamp"]).all()


def test_a_session_that_spans_blocks_is_in_order() -> None:
    config = WorldConfig(viewers=500, videos=300, events=300_000, days=2)
    parts = list(all_events(World.of(config)))
    assert len(parts) > 2
    times = np.concatenate([part.time for part in parts])
    assert (np.diff(times) >= 0).all()
    assert len(times) == 300_000


def test_few_videos_draw_most_of_the_watches() -> None:
    parts = all_events(World.of(WorldConfig(viewers=3_000, videos=20_000, events=150_000)))
    counts = np.bincount(np.concatenate([part.video for part in parts]), minlength=20_000)
    counts = np.sort(counts)[::-1]
    assert counts[:2_000].sum() > 0.5 * counts.sum()
    assert counts[:2_000].sum() < 0.95 * counts.sum()
    assert (counts < 10).mean() > 0.7


def test_videos_have_creators_and_attributes_that_follow_topics_in_part(tmp_path: Path) -> None:
    info, world = written(tmp_path, WorldConfig(viewers=20, videos=20_000, events=100))
    assert info.attributes == {"language": "labels", "region": "labels", "age_rating": "number"}
    names = [f"attribute.{name}" for name in info.attributes]
    videos = world.video_columns("tags", "title", "creator", *names).to_pandas()
    topic, region = videos["tags"].str[0], videos["tags"].str[1]
    series = topic + videos["title"].str.replace(r" part \d+$", "", regex=True)
    language, regions = videos["attribute.language"].str[0], videos["attribute.region"].str.len()
    for column in (videos["creator"], language, videos["attribute.age_rating"].fillna(-1)):
        assert (column.groupby(series).nunique() == 1).all()

    def purity(column: pd.Series, clusters: pd.Series) -> float:
        """The share of the videos that have the commonest value of their cluster."""
        return float(column.groupby(clusters).agg(lambda each: each.value_counts().max()).sum())

    assert 0.7 < purity(language, region) / len(videos) < 0.9
    assert 0.6 < purity(videos["attribute.age_rating"], topic) / len(videos) < 0.9
    assert set(regions) == {1, 2, 5}
    assert 0.5 < (regions == 5).mean() < 0.7
    assert 0 < videos["attribute.age_rating"].isna().mean() < 0.1
    counts = videos["creator"].value_counts()
    assert len(counts) > 1_000
    assert counts.max() > 5 * counts.median()


def test_tastes_are_mostly_of_the_own_region_and_drift() -> None:
    world = World.of(WorldConfig(viewers=2_000, videos=20_000, events=1_000))
    viewers, slots = np.arange(2_000), np.zeros(2_000, np.int64)
    early = world.taste(viewers, slots, np.full(2_000, 1_704_100_000))
    soon = world.taste(viewers, slots, np.full(2_000, 1_704_200_000))
    late = world.taste(viewers, slots, np.full(2_000, 1_711_000_000))
    assert (early == soon).mean() > 0.9
    assert (early == late).mean() < 0.3
    at_home = early % REGIONS == world.region
    assert 0.75 < at_home.mean() < 0.98


def test_tastes_change_as_often_as_is_asked_for() -> None:
    viewers, slots = np.arange(2_000), np.zeros(2_000, np.int64)
    kept = {}
    for drift in (0.0, 1.0, 8.0):
        world = World.of(WorldConfig(viewers=2_000, videos=20_000, events=1_000, drift=drift))
        early, late = (
            world.taste(viewers, slots, np.full(2_000, START + day * DAY)) for day in (0, 10)
        )
        kept[drift] = (early == late).mean()
    assert kept[0.0] == 1 > kept[1.0] > 0.75 > 0.3 > kept[8.0]


def test_viewers_come_back_to_their_favourites() -> None:
    plays = {}
    for repeats in (0.0, 0.5):
        world = World.of(WorldConfig(200, 2_000, 20_000, repeats=repeats))
        events = Events.joined(list(all_events(world)))
        pairs = np.unique(events.viewer * 2_000 + events.video)
        plays[repeats] = len(events.viewer) / len(pairs)
    assert plays[0.5] > 1.2 * plays[0.0]


@pytest.mark.parametrize("better", ["item_knn", "ease"])
def test_synthetic_watches_have_collaborative_signal(world: Dataset, better: str) -> None:
    watches = split_watches(world.interactions, "last")
    bed = TestBed.of(watches, list(world.videos["video_id"]))
    ranks = {
        name: of_chunks(
            lambda part, model=model: model.scores(bed.viewers.watched[part]),  # type: ignore[misc]
            bed.viewers,
            bed.past.videos,
        ).ranks
        for name, model in fitted(("popularity", better), bed.past)
    }
    assert hit_rate(ranks[better], 10) > 2 * hit_rate(ranks["popularity"], 10)


@pytest.mark.parametrize("field", ["viewers", "videos", "events", "days"])
def test_a_world_too_small_is_refused_by_name(field: str, tmp_path: Path) -> None:
    with pytest.raises(VireoError, match=f"{field} is 0: choose"):
        write_world(Home(tmp_path), "synth", replace(SMALL, **{field: 0}))  # type: ignore[arg-type]


def test_a_data_set_of_that_name_stays_unless_forced(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(VireoError, match="--force"):
        write_world(Home(tmp_path), "synth", SMALL)
    other = replace(SMALL, seed=9)
    assert "--seed 9" in write_world(Home(tmp_path), "synth", other, force=True).source
