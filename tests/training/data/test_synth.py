from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vireo.server.errors import VireoError
from vireo.server.features.context import COLUMNS
from vireo.server.home import Home
from vireo.training.data.dataset import Dataset, DatasetInfo, is_example, load_dataset
from vireo.training.data.synth.events import Events, all_events
from vireo.training.data.synth.world import DAY, REGIONS, START, World, WorldConfig
from vireo.training.data.synth.writing import write_world

SMALL = WorldConfig(viewers=400, videos=600, events=16_000, seed=3)


def written(folder: Path, config: WorldConfig = SMALL) -> tuple[DatasetInfo, Dataset]:
    return write_world(Home(folder), "synth", config), load_dataset(Home(folder), "synth")


def drawn(config: WorldConfig) -> Events:
    return np.concatenate(list(all_events(World.of(config))))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return written(tmp_path_factory.mktemp("synth"))[1]


def test_the_seed_decides_the_files_and_there_is_as_much_as_was_asked_for(
    world: Dataset, tmp_path: Path
) -> None:
    done: list[tuple[int, int]] = []
    info = write_world(Home(tmp_path), "synth", SMALL, progress=lambda *counts: done.append(counts))
    assert info.fingerprint == world.info.fingerprint
    assert (info.viewers, info.videos, info.interactions) == (400, 600, 16_000)
    assert set(info.events) == {"play", "like", "hide"}
    assert done[-1] == (16_000, 16_000)
    with pytest.raises(VireoError, match="--replace"):
        written(tmp_path)
    other = write_world(Home(tmp_path), "synth", replace(SMALL, seed=4), force=True)
    assert "--seed 4" in other.source
    assert other.fingerprint != info.fingerprint


def test_synthetic_data_is_example_data_and_unknown_data_is_not(world: Dataset) -> None:
    home = Home(world.folder.parent.parent)
    names = ("synth", "nowhere", "../synth")
    assert [is_example(home, name) for name in names] == [True, False, False]


def test_interactions_are_in_order_and_of_videos_that_are_out(world: Dataset) -> None:
    events = world.interactions
    assert events["timestamp"].is_monotonic_increasing
    assert (events["row"] == np.arange(1, len(events) + 1)).all()
    out = events["video_id"].map(world.videos.set_index("video_id")["published"])
    assert (out <= events["timestamp"]).all()
    assert not set(COLUMNS) & set(events)


def test_a_session_that_spans_blocks_is_in_order() -> None:
    config = WorldConfig(viewers=500, videos=300, events=300_000, days=2)
    parts = list(all_events(World.of(config)))
    assert len(parts) > 2
    times = np.concatenate([part["time"] for part in parts])
    assert (np.diff(times) >= 0).all()
    assert len(times) == 300_000


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

    commonest = language.groupby(region).agg(lambda each: each.value_counts().max())
    assert 0.7 < commonest.sum() / len(videos) < 0.9
    assert set(regions) == {1, 2, 5}
    assert 0 < videos["attribute.age_rating"].isna().mean() < 0.1
    counts = videos["creator"].value_counts()
    assert len(counts) > 1_000
    assert counts.max() > 5 * counts.median()


def test_tastes_are_mostly_of_the_own_region_and_change_as_often_as_is_asked_for() -> None:
    viewers, slots = np.arange(2_000), np.zeros(2_000, np.int64)
    kept = {}
    for drift in (0.0, 1.0, 8.0):
        world = World.of(WorldConfig(viewers=2_000, videos=20_000, events=1_000, drift=drift))
        early, late = (
            world.taste(viewers, slots, np.full(2_000, START + day * DAY)) for day in (0, 10)
        )
        assert 0.75 < (early % REGIONS == world.region).mean() < 0.98
        kept[drift] = (early == late).mean()
    assert kept[0.0] == 1 > kept[1.0] > 0.75 > 0.3 > kept[8.0]


def test_viewers_come_back_to_their_favourites() -> None:
    plays = {}
    for repeats in (0.0, 0.5):
        events = drawn(WorldConfig(200, 2_000, 20_000, repeats=repeats))
        pairs = np.unique(events["viewer"] * 2_000 + events["video"])
        plays[repeats] = len(events) / len(pairs)
    assert plays[0.5] > 1.2 * plays[0.0]


def test_a_world_has_context_and_tastes_by_it_if_asked(tmp_path: Path) -> None:
    _, world = written(tmp_path, WorldConfig(60, 2_000, 3_000, context=True))
    events = world.interactions
    assert events[list(COLUMNS)].notna().all().all()
    videos = world.videos.set_index("video_id")
    length = videos["duration"].reindex(events["video_id"].astype(str)).to_numpy()
    on_tv = (events["device"] == "tv").to_numpy()
    assert np.median(length[on_tv]) > 1.5 * np.median(length[~on_tv])


@pytest.mark.parametrize("field", ["viewers", "videos", "events", "days"])
def test_a_world_too_small_is_refused_by_name(field: str, tmp_path: Path) -> None:
    with pytest.raises(VireoError, match=f"{field} is 0: choose"):
        write_world(Home(tmp_path), "synth", replace(SMALL, **{field: 0}))  # type: ignore[arg-type]
