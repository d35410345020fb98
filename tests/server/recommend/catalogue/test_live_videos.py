from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import faiss
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders.attributes import DECLARED
from tests.builders.catalogue import known_videos, removed, restored, take, upserted
from tests.builders.filters import condition, expression
from vireo.server.arrays import Int64Array
from vireo.server.features.keys import video_key
from vireo.server.features.model_inputs import LIKE_PRIOR
from vireo.server.recommend.catalogue.live_videos import LiveVideos
from vireo.server.recommend.catalogue.overlay import Overlay
from vireo.server.recommend.catalogue.placement import Placement
from vireo.server.recommend.catalogue.trends import Trends
from vireo.server.recommend.filters.declared import Declared
from vireo.server.recommend.retrieval.allowed import AppliedFilter
from vireo.server.recommend.retrieval.index import VideoIndex
from vireo.server.releases import layout
from vireo.server.releases.manifest import IndexDescription
from vireo.v1.catalog_pb2 import Video

DAY = 86_400


@pytest.fixture
def overlay() -> Overlay:
    return Overlay(100_000, clock=lambda: 30.0 * DAY)


def live_of(
    folder: Path, overlay: Overlay, merged: int = 0, declared: Declared | None = DECLARED
) -> LiveVideos:
    known = known_videos(folder, declared=declared)
    return LiveVideos(overlay, Trends(1.0), known, merged=merged)


def settled(live: LiveVideos) -> LiveVideos:
    live.update(live.overlay.newly_touched())
    while live.place_some():
        pass
    return live


def placed(live: LiveVideos) -> dict[int, int]:
    """Return the place of each key that is placed."""
    return {key: place for key, place in live.places.items() if live.placed[place]}


def with_tag(live: LiveVideos, tag: str) -> set[int]:
    """Return the keys of the live videos for which a filter holds, placed or not."""
    wanted = expression(condition("tag", any_of=[tag]))
    index = VideoIndex(faiss.IndexFlatIP(1), IndexDescription())
    filtered = AppliedFilter(wanted, np.zeros(len(live.removed), np.bool_), index, live)
    for _ in filtered.updates(wanted):
        pass
    return {key for key, place in live.places.items() if filtered.live[place]}


def tower_of(folder: Path) -> Placement:
    return known_videos(folder).placement


def test_a_new_video_gets_the_towers_vectors(release_folder: Path, overlay: Overlay) -> None:
    overlay.take([upserted(1, "new", tags=["dog"], creator="c", published={"seconds": 29 * DAY})])
    live = settled(live_of(release_folder, overlay))

    row = placed(live)[video_key("new")]
    bag = np.zeros((1, 24), np.int64)
    bag[0, 0] = 2
    vectors, contents = tower_of(release_folder).vectors(bag)
    assert np.array_equal(live.vectors[row], vectors[0])
    assert np.array_equal(live.content[row], contents[0])
    assert live.features[row] == pytest.approx([0, 0, LIKE_PRIOR, np.log(2)])
    assert (live.creators[row], live.own_rows[row]) == (video_key("c"), -1)
    assert live.video(live.first + row).tags == ["dog"]


def test_a_changed_video_keeps_what_its_watches_taught(
    release_folder: Path, overlay: Overlay
) -> None:
    overlay.take([upserted(1, "video-0", tags=["fish"])])
    live = settled(live_of(release_folder, overlay))

    row = placed(live)[video_key("video-0")]
    bags = np.zeros((2, 24), np.int64)
    bags[:, 0] = [1, 3]
    cat, fish = tower_of(release_folder).vectors(bags)[0]
    own = np.load(release_folder / layout.VIDEO_VECTORS)[0]
    assert live.vectors[row] == pytest.approx(own + fish - cat, abs=1e-6)
    assert live.own_rows[row] == 0


def test_a_video_with_another_creator_has_a_row_of_its_own(
    release_folder: Path, overlay: Overlay
) -> None:
    known = replace(
        known_videos(release_folder), creators=np.load(release_folder / layout.CREATORS)
    )
    live = LiveVideos(overlay, Trends(1.0), known)
    overlay.take(
        [
            upserted(1, "video-0", tags=["cat"], creator="another"),
            upserted(2, "video-3", tags=["cat"], creator="creator-3"),
        ]
    )
    settled(live)
    [row] = placed(live).values()
    assert (live.own_rows[row], live.creators[row]) == (0, video_key("another"))
    assert live.vectors[row] == pytest.approx(
        np.load(release_folder / layout.VIDEO_VECTORS)[0], abs=1e-6
    )


def test_changes_that_were_trained_with_are_merged_already(
    release_folder: Path, overlay: Overlay
) -> None:
    overlay.take([upserted(1, "video-0", tags=["fish"]), upserted(2, "lost", tags=["fish"])])
    overlay.take([upserted(3, "video-1", tags=["fish"])])
    live = settled(live_of(release_folder, overlay, merged=2))
    assert with_tag(live, "fish") == {video_key("lost"), video_key("video-1")}
    assert placed(live).keys() == {video_key("lost"), video_key("video-1")}


def test_changes_of_a_log_that_lost_its_data_hold(release_folder: Path, overlay: Overlay) -> None:
    overlay.take([upserted(500, "old", tags=["cat"])])
    live = settled(live_of(release_folder, overlay, merged=400))
    take(overlay, removed(1, "video-3"), upserted(2, "video-0", tags=["fish"]))
    settled(live)
    assert live.removed_rows.tolist() == [3]
    assert placed(live).keys() == {video_key("old"), video_key("video-0")}


OWN = {"video-0": "cat", "video-1": "dog", "video-2": "fish"}
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["upsert", "remove", "restore", "update", "place"]),
        st.sampled_from([*OWN, "new-1", "new-2"]),
        st.sampled_from([*OWN.values()]),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=100, deadline=None)
@given(STEPS, st.integers(0, 29))
def test_live_videos_have_the_last_contents_of_what_isnt_taken_down_whatever_comes_in_between(
    release_folder: Path, steps: list[tuple[str, str, str]], begins: int
) -> None:
    overlay = Overlay(100)
    live = live_of(release_folder, overlay)
    parts: Iterator[None] = iter(())
    contents, down = dict[str, str](), set[str]()
    for place, (step, name, tag) in enumerate(steps):
        if place == min(begins, len(steps) - 1):  # the pod has followed the log for other tables
            overlay.newly_touched()
            live = live_of(release_folder, overlay)
            parts = live.catch_up()
        with patch("vireo.server.recommend.catalogue.live_videos._PART", 2):
            next(parts, None)
        if step == "upsert":
            overlay.take([upserted(1 + place, name, title=f"{place}", tags=[tag])])
            contents[name] = tag
        elif step == "remove":
            overlay.take_takedowns([removed(1 + place, name, at=1 + place)])
            down.add(name)
        elif step == "restore":
            overlay.take_takedowns([restored(1 + place, name, at=1 + place)])
            down.discard(name)
        elif step == "update":
            live.update(overlay.newly_touched())
        else:
            live.place_some()
    for _ in parts:
        pass
    live.update(overlay.newly_touched())
    shown = {name: tag for name, tag in contents.items() if name not in down}
    assert with_tag(live, "cat") == {video_key(name) for name in shown if shown[name] == "cat"}
    settled(live)
    beside = {
        name: tag
        for name, tag in shown.items()
        if OWN.get(name) != tag  # with its own content it needs no place
    }
    assert placed(live).keys() == {video_key(name) for name in beside}
    assert live.changed == {video_key(name) for name in beside if name in OWN}
    for name, tag in beside.items():
        assert live.video(live.first + live.places[video_key(name)]).tags == [tag]
    rows = sorted(row for row, name in enumerate(OWN) if name in down)
    assert live.removed_rows.tolist() == live.removed.nonzero()[0].tolist() == rows


def test_videos_that_the_overlay_drops_are_forgotten(release_folder: Path) -> None:
    overlay = Overlay(2)
    live = live_of(release_folder, overlay)
    overlay.take([upserted(2, "new-1", tags=["cat"])])
    settled(live)
    overlay.take([upserted(4 + each, f"newer-{each}", tags=["cat"]) for each in range(2)])
    settled(live)
    assert with_tag(live, "cat") == {video_key("newer-0"), video_key("newer-1")}
    assert placed(live).keys() == {video_key("newer-0"), video_key("newer-1")}


def test_ranking_looks_up_what_the_release_has_only_while_some_of_it_is_changed(
    release_folder: Path, overlay: Overlay
) -> None:
    class Places(dict[int, int]):
        def get(self, key: int, default: Any = None) -> Any:
            asked.append(key)
            return super().get(key, default)

    def look_up() -> list[int]:
        asked.clear()
        found: list[int] = live.find(keys, rows, changed=True).tolist()
        return found

    asked: list[int] = []
    live = live_of(release_folder, overlay)
    live.places = Places()
    keys = np.array([video_key(name) for name in ("video-0", "video-1", "new")])
    rows = live.known.rows.find(keys)
    overlay.take([upserted(1, "new", tags=["cat"])])
    settled(live)
    assert look_up() == [0, 1, live.first]
    assert asked == [keys[2]]

    overlay.take([upserted(2, "video-0", tags=["fish"])])
    settled(live)
    assert look_up() == [live.first + 1, 1, live.first]
    assert asked == keys.tolist()

    overlay.take([upserted(3, "video-0", tags=["cat"])])  # its own content again
    settled(live)
    assert look_up() == [0, 1, live.first]
    assert asked == [keys[2]]


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
    live = settled(live_of(release_folder, overlay))
    assert placed(live).keys() == {video_key("new-0"), video_key("new-2")}
    assert live.unfit == {video_key("new-1")}

    overlay.take([upserted(4, "new-1", title="good")])
    settled(live)
    assert (len(placed(live)), live.unfit) == (3, set())


def test_a_duration_or_time_that_isnt_one_is_no_content(
    release_folder: Path, overlay: Overlay
) -> None:
    overlay.take([upserted(1, "late", published={"seconds": 1 << 60})])
    durations = [math.inf, math.nan]
    overlay.take([upserted(2 + n, f"{n}", duration=value) for n, value in enumerate(durations)])
    live = settled(live_of(release_folder, overlay))
    assert (len(placed(live)), live.unfit) == (3, set())
    assert live.features[0, 3] == 0


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
    live = settled(live_of(release_folder, overlay, declared=None))
    used = process.memory_info().rss - before
    assert len(placed(live)) == 100_000
    assert used < 100_000 * (300 + 100 + 2 * 4 * live.vectors.shape[1]) * 1.2
