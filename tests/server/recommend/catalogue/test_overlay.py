from __future__ import annotations

from tests.builders.catalogue import removed, take, upserted
from vireo.server.features.keys import video_key
from vireo.server.recommend.catalogue.overlay import Overlay
from vireo.v1.catalog_pb2 import Video


def positions(overlay: Overlay) -> dict[str, int]:
    """Position of the last upsert of each video that is kept, by its id."""
    kept = [change for key in overlay.keys if (change := overlay.get(key))]
    return {Video.FromString(each.video).video_id: each.position for each in kept}


def test_the_last_change_of_a_video_counts() -> None:
    overlay = Overlay(10)
    overlay.take([upserted(1, "a", title="one"), upserted(2, "b"), upserted(3, "a", title="two")])
    overlay.take([upserted(4, "b")])

    assert positions(overlay) == {"a": 3, "b": 4}
    assert (overlay.videos, overlay.position) == (2, 4)


def test_a_log_that_lost_its_data_is_taken_in_anew() -> None:
    overlay = Overlay(10)
    take(overlay, upserted(500, "a", title="one"), removed(501, "b"))
    overlay.take([upserted(1, "c"), upserted(2, "a", title="two")])

    assert overlay.keys == [video_key("c"), video_key("a")]
    assert all(overlay.changed_after(key, 500) for key in overlay.keys)
    assert video_key("b") in overlay.takedowns
    assert overlay.position - overlay.lost == 2


def test_a_removal_erases_what_was_known_and_a_later_upsert_is_kept() -> None:
    overlay = Overlay(10)
    overlay.take([upserted(1, "a", title="one"), removed(2, "a")])
    assert overlay.get(video_key("a")) is None
    assert {*overlay.newly_touched()} == {video_key("a")}
    overlay.take([upserted(3, "a", title="two")])
    assert overlay.get(video_key("a")) is not None


def test_beyond_its_bound_the_newest_videos_are_kept() -> None:
    overlay = Overlay(2)
    overlay.take([upserted(position, f"video-{position}") for position in range(1, 6)])
    assert (overlay.videos, overlay.dropped) == (2, 3)
    assert [*positions(overlay).values()] == [4, 5]
    assert {*overlay.newly_touched()} == {video_key(f"video-{number}") for number in range(1, 6)}
    assert overlay.newly_touched() == []


def test_beyond_its_bytes_the_newest_videos_are_kept() -> None:
    overlay = Overlay(1000, max_bytes=10_000)
    overlay.take([upserted(each, f"video-{each}", title="t" * 980) for each in range(1, 31)])
    assert [*positions(overlay).values()] == list(range(21, 31))
    assert overlay.dropped == 20
    # The same video again takes no more room, and short labels count for what they take in tables.
    overlay.take([upserted(each, "video-30", title="t" * 980) for each in range(31, 61)])
    assert overlay.videos == 10
    overlay.take([upserted(61, "labelled", tags=[f"{each:02}" for each in range(64)])])
    assert overlay.videos == 7
    overlay.take([upserted(62, "enormous", title="t" * 20_000), upserted(63, "small")])
    assert [*positions(overlay).values()] == [63]


def test_what_isnt_a_change_is_passed_over() -> None:
    overlay = Overlay(2)
    broken = upserted(1, "a")
    overlay.take([type(broken)(1, broken.key, b"\xff\xff"), upserted(2, "b")])
    assert (overlay.videos, overlay.position) == (1, 2)


def test_what_changed_after_a_position_is_known_without_the_contents() -> None:
    overlay = Overlay(3, max_bytes=1, contents=False)
    overlay.take([upserted(1, "a", title="one"), upserted(2, "b"), upserted(3, "c")])
    changed = {
        name: [overlay.changed_after(video_key(name), each) for each in (0, 1, 2, 3)]
        for name in "abcd"
    }
    assert changed == {
        "a": [True, False, False, False],
        "b": [True, True, False, False],
        "c": [True, True, True, False],
        "d": [False, False, False, False],
    }
    assert {change.video for key in overlay.keys if (change := overlay.get(key))} == {b""}


def test_what_may_have_changed_in_what_was_dropped_counts_as_changed() -> None:
    overlay = Overlay(2, contents=False)
    overlay.take([upserted(position, f"video-{position}") for position in range(1, 6)])
    assert overlay.changed_after(video_key("any"), 2)
    assert not overlay.changed_after(video_key("any"), 3)
    assert overlay.changed_after(video_key("video-5"), 3)
