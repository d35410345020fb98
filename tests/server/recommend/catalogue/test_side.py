from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.builders.catalogue import known_videos, removed, restored, take, upserted
from vireo.server.arrays import Int64Array
from vireo.server.features.keys import video_key
from vireo.server.features.ranking_inputs import LIKE_PRIOR
from vireo.server.recommend.catalogue.overlay import Overlay
from vireo.server.recommend.catalogue.placement import Placement
from vireo.server.recommend.catalogue.side import SideTable
from vireo.server.releases import layout
from vireo.v1.catalog_pb2 import Video

DAY = 86_400


@pytest.fixture
def overlay() -> Overlay:
    return Overlay(100_000)


def table_of(folder: Path, overlay: Overlay, position: int = 0) -> SideTable:
    known = known_videos(folder, position)
    return SideTable(overlay, known, ranked=True, clock=lambda: 30.0 * DAY)


def settled(table: SideTable) -> SideTable:
    table.refresh(table.overlay.newly_touched())
    table.take_changes()
    while table.place_some():
        pass
    return table


def tower_of(folder: Path) -> Placement:
    return known_videos(folder).placement


def test_a_new_video_gets_the_towers_vectors(release_folder: Path, overlay: Overlay) -> None:
    overlay.take([upserted(1, "new", tags=["dog"], creator="c", published={"seconds": 29 * DAY})])
    table = settled(table_of(release_folder, overlay))

    [row] = table.find([video_key("new")]).tolist()
    bag = np.zeros((1, 24), np.int64)
    bag[0, 0] = 2
    vectors, contents = tower_of(release_folder).vectors(bag)
    assert np.array_equal(table.vectors[row], vectors[0])
    assert np.array_equal(table.content[row], contents[0])
    assert table.features[row] == pytest.approx([0, 0, LIKE_PRIOR, np.log(2)])
    assert (table.creators[row], table.own_rows[row]) == (video_key("c"), -1)
    assert table.video(row).tags == ["dog"]


def test_a_video_that_the_release_has_as_it_is_needs_no_place(
    release_folder: Path, overlay: Overlay
) -> None:
    overlay.take([upserted(1, "video-0", tags=["cat"], title="another title")])
    table = settled(table_of(release_folder, overlay))
    assert table.places == {}


def test_a_changed_video_keeps_what_its_watches_taught(
    release_folder: Path, overlay: Overlay
) -> None:
    overlay.take([upserted(1, "video-0", tags=["fish"])])
    table = settled(table_of(release_folder, overlay))

    [row] = table.find([video_key("video-0")]).tolist()
    bags = np.zeros((2, 24), np.int64)
    bags[:, 0] = [1, 3]
    cat, fish = tower_of(release_folder).vectors(bags)[0]
    own = np.load(release_folder / layout.VIDEO_VECTORS)[0]
    assert table.vectors[row] == pytest.approx(own + fish - cat, abs=1e-6)
    assert (table.own_rows[row], table.changed) == (0, 1)

    overlay.take([upserted(2, "video-0", tags=["cat"])])
    settled(table)
    assert (table.places, table.changed) == ({}, 0)


def test_a_video_with_another_creator_has_a_row_of_its_own(
    release_folder: Path, overlay: Overlay
) -> None:
    known = replace(
        known_videos(release_folder), creators=np.load(release_folder / layout.CREATORS)
    )
    table = SideTable(overlay, known, ranked=True)
    overlay.take(
        [
            upserted(1, "video-0", tags=["cat"], creator="another"),
            upserted(2, "video-3", tags=["cat"], creator="creator-3"),
        ]
    )
    settled(table)
    [row] = table.places.values()
    assert (table.own_rows[row], table.creators[row]) == (0, video_key("another"))
    assert table.vectors[row] == pytest.approx(
        np.load(release_folder / layout.VIDEO_VECTORS)[0], abs=1e-6
    )


def test_changes_that_were_trained_with_are_merged_already(
    release_folder: Path, overlay: Overlay
) -> None:
    overlay.take([upserted(1, "video-0", tags=["fish"]), upserted(2, "lost", tags=["fish"])])
    overlay.take([upserted(3, "video-1", tags=["fish"])])
    table = settled(table_of(release_folder, overlay, position=2))
    assert table.places.keys() == {video_key("lost"), video_key("video-1")}


def test_changes_of_a_log_that_lost_its_data_hold(release_folder: Path, overlay: Overlay) -> None:
    overlay.take([upserted(500, "old", tags=["cat"])])
    table = settled(table_of(release_folder, overlay, position=400))
    take(overlay, removed(1, "video-3"), upserted(2, "video-0", tags=["fish"]))
    settled(table)
    assert table.removed_rows.tolist() == [3]
    assert table.places.keys() == {video_key("old"), video_key("video-0")}


def test_a_removal_holds_for_own_and_for_new_videos_until_they_are_restored(
    release_folder: Path, overlay: Overlay
) -> None:
    take(overlay, upserted(1, "new", tags=["cat"]), removed(2, "video-3"))
    table = settled(table_of(release_folder, overlay))
    assert table.removed_rows.tolist() == [3]

    take(overlay, removed(3, "new"), removed(4, "unheard-of"))
    settled(table)
    assert table.places == {}
    assert not table.new.any()

    take(overlay, upserted(5, "video-3", tags=["dog"]), upserted(6, "new", tags=["cat"]))
    settled(table)
    assert table.removed_rows.tolist() == [3], "an upsert alone restores nothing"
    assert table.places == {}

    overlay.take_takedowns([restored(5, "video-3"), restored(6, "new")])
    settled(table)
    assert not len(table.removed_rows)
    assert table.places.keys() == {video_key("video-3"), video_key("new")}


def test_an_upsert_that_comes_before_its_restoration_is_placed_after_it(
    release_folder: Path, overlay: Overlay
) -> None:
    take(overlay, removed(1, "new"), upserted(1, "new", tags=["cat"]))
    table = settled(table_of(release_folder, overlay))
    assert table.places == {}
    overlay.take_takedowns([restored(2, "new")])
    assert settled(table).places.keys() == {video_key("new")}


def test_takedowns_before_the_table_hold(release_folder: Path, overlay: Overlay) -> None:
    take(overlay, removed(1, "video-7"), removed(2, "video-2"), removed(3, "of no release"))
    overlay.newly_touched()
    table = table_of(release_folder, overlay)
    assert [*table.catch_up()] == [], "there are no upserts"
    assert table.removed_rows.tolist() == [2, 7]
    assert table.removed.sum() == 2


def test_changes_between_the_parts_of_a_catalogue_that_is_taken_in_count(
    release_folder: Path, overlay: Overlay
) -> None:
    overlay.take([upserted(1 + each, f"new-{each}", tags=["cat"]) for each in range(600)])
    take(overlay, removed(601, "video-6"))
    table = table_of(release_folder, overlay)
    parts = table.catch_up()
    next(parts)
    take(overlay, upserted(602, "new-599", tags=["dog"]), removed(603, "new-400"))
    table.refresh(overlay.newly_touched())
    table.take_changes()
    assert len([*parts]) == 2
    settled(table)
    assert len(table.places) == 599
    assert table.video(table.places[video_key("new-599")]).tags == ["dog"]
    assert table.removed_rows.tolist() == [6]


def test_a_removal_overtakes_an_upsert_that_waits(release_folder: Path, overlay: Overlay) -> None:
    table = table_of(release_folder, overlay)
    overlay.take([upserted(1, "new", tags=["cat"])])
    table.take_changes()
    take(overlay, removed(2, "new"))
    assert not table.place_some()
    assert table.places == {}


def test_the_nearest_come_first_and_unusable_ones_never(
    release_folder: Path, overlay: Overlay
) -> None:
    tags: list[list[str]] = [["cat"], ["dog"], ["fish"], []]
    overlay.take([upserted(1 + each, f"new-{each}", tags=tags[each % 4]) for each in range(400)])
    table = settled(table_of(release_folder, overlay))
    vector = table.vectors[1]
    usable = table.new[: table.count].copy()
    usable[table.find([video_key("new-1")])] = False

    found = table.nearest(vector, 30, usable)

    scores = table.vectors[: table.count] @ vector
    assert len(found) == 30
    assert scores[found].tolist() == sorted(scores[usable].tolist(), reverse=True)[:30]
    assert video_key("new-1") not in table.keys[found]


def test_videos_that_the_overlay_drops_are_forgotten(release_folder: Path) -> None:
    overlay = Overlay(2)
    table = table_of(release_folder, overlay)
    overlay.take([upserted(2, "new-1", tags=["cat"])])
    settled(table)
    overlay.take([upserted(4 + each, f"newer-{each}", tags=["cat"]) for each in range(2)])
    settled(table)
    assert table.places.keys() == {video_key("newer-0"), video_key("newer-1")}


def test_a_video_that_cant_be_placed_is_counted_and_holds_up_no_other(
    release_folder: Path, overlay: Overlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    def content(self: Placement, videos: Sequence[Video]) -> Int64Array:
        if any(video.title == "bad" for video in videos):
            raise OverflowError("bad")
        return usual(self, videos)

    usual = Placement.content
    monkeypatch.setattr(Placement, "content", content)
    titles = ["good", "bad", "good"]
    overlay.take([upserted(1 + n, f"new-{n}", title=title) for n, title in enumerate(titles)])
    table = settled(table_of(release_folder, overlay))
    assert table.places.keys() == {video_key("new-0"), video_key("new-2")}
    assert table.unplaced == {video_key("new-1")}

    overlay.take([upserted(4, "new-1", title="good")])
    settled(table)
    assert (len(table.places), table.unplaced) == (3, set())


def test_a_duration_that_isnt_one_is_no_content(release_folder: Path, overlay: Overlay) -> None:
    durations = [math.inf, math.nan]
    overlay.take([upserted(1 + n, f"{n}", duration=value) for n, value in enumerate(durations)])
    table = settled(table_of(release_folder, overlay))
    assert (len(table.places), table.unplaced) == (2, set())


def test_times_beyond_the_calendar_are_no_content(release_folder: Path, overlay: Overlay) -> None:
    overlay.take([upserted(1, "new", tags=["cat"], published={"seconds": 1 << 60})])
    table = settled(table_of(release_folder, overlay))
    assert table.features[0, 3] == 0


def test_a_hundred_thousand_new_videos_stay_within_the_stated_memory(release_folder: Path) -> None:
    tags = [["cat"], ["dog"], ["fish"]]
    entries = [
        upserted(each, f"a site's video {each}", title="Four words of it", tags=tags[each % 3])
        for each in range(1, 100_001)
    ]
    process = psutil.Process()
    before = process.memory_info().rss
    overlay = Overlay(100_000)
    overlay.take(entries)
    table = settled(table_of(release_folder, overlay))
    used = process.memory_info().rss - before
    assert len(table.places) == 100_000
    assert used < 100_000 * (300 + 100 + 2 * 4 * table.vectors.shape[1]) * 1.2


def test_goldens_of_the_tower_are_replayed(release_folder: Path) -> None:
    tower_of(release_folder).replay_goldens()
