from __future__ import annotations

from dataclasses import replace

from server.event_log.position import Position
from server.features.keys import video_key
from server.live.overlay import Overlay
from tests.builders.catalogue import removed, upserted


def removed_in(overlay: Overlay) -> list[str]:
    found = ((name, overlay.get(video_key(name))) for name in "ab")
    return [name for name, change in found if change is not None and change.removed]


def test_the_last_change_of_a_video_counts() -> None:
    overlay = Overlay(10)
    overlay.take([upserted(1, "a", title="one"), removed(2, "b"), upserted(3, "a", title="two")])
    overlay.take([upserted(4, "b")])

    assert [(change.key, change.position) for change in overlay.since(0)] == [
        (video_key("a"), 3),
        (video_key("b"), 4),
    ]
    assert (overlay.videos, overlay.removals, overlay.position) == (2, 0, 4)


def test_changes_after_a_position_come_in_order() -> None:
    overlay = Overlay(10)
    overlay.take([upserted(position, f"video-{position}") for position in range(1, 8)])
    overlay.take([removed(8, "video-2")])

    assert [change.position for change in overlay.since(5)] == [6, 7, 8]
    assert overlay.since(8) == []


def test_a_log_that_lost_its_data_is_taken_in_anew() -> None:
    overlay = Overlay(10)
    overlay.take([upserted(500, "a", title="one"), removed(501, "b")])
    overlay.take([upserted(1, "c"), upserted(2, "a", title="two")])

    assert [change.key for change in overlay.since(501)] == [video_key("c"), video_key("a")]
    assert removed_in(overlay) == ["b"]
    assert overlay.position - overlay.lost == 2
    overlay.take([upserted(1, "b")])
    assert removed_in(overlay) == []


def test_removed_videos_are_known_by_their_keys() -> None:
    overlay = Overlay(10)
    overlay.take([removed(1, "a"), removed(2, "b")])
    assert removed_in(overlay) == ["a", "b"]
    overlay.take([upserted(3, "a")])
    assert removed_in(overlay) == ["b"]


def test_beyond_its_bound_the_newest_videos_are_kept() -> None:
    overlay = Overlay(2)
    overlay.take([upserted(position, f"video-{position}") for position in range(1, 6)])
    assert (overlay.videos, overlay.dropped) == (2, 3)
    assert [change.position for change in overlay.since(0)] == [4, 5]
    assert overlay.newly_dropped() == [video_key(f"video-{number}") for number in (1, 2, 3)]
    assert overlay.newly_dropped() == []


def test_removals_have_a_bound_of_their_own() -> None:
    overlay = Overlay(0, max_removals=2)
    overlay.take([removed(position, f"video-{position}") for position in range(1, 4)])
    overlay.take([upserted(4, "video-9"), upserted(5, "video-1")])
    assert (overlay.removals, overlay.dropped, overlay.videos) == (1, 1, 0)


def test_what_isnt_a_change_is_counted_and_passed_over() -> None:
    overlay = Overlay(2)
    broken = upserted(1, "a")
    overlay.take([type(broken)(1, broken.key, b"\xff\xff"), upserted(2, "b")])
    assert (overlay.unreadable, overlay.videos, overlay.position) == (1, 1, 2)


def test_what_changed_after_a_position_is_known_without_the_contents() -> None:
    overlay = Overlay(3, contents=False)
    overlay.take([upserted(1, "a", title="one"), upserted(2, "b"), removed(3, "c")])
    changed = {
        name: [overlay.changed_after(video_key(name), Position(each)) for each in (0, 1, 2, 3)]
        for name in "abcd"
    }
    assert changed == {
        "a": [True, False, False, False],
        "b": [True, True, False, False],
        "c": [True, True, True, False],
        "d": [False, False, False, False],
    }
    assert [change.video for change in overlay.since(0)] == [b"", b"", b""]


def test_what_may_have_changed_in_what_was_dropped_counts_as_changed() -> None:
    overlay = Overlay(2, contents=False)
    overlay.take([upserted(position, f"video-{position}") for position in range(1, 6)])
    assert overlay.changed_after(video_key("any"), Position(2))
    assert not overlay.changed_after(video_key("any"), Position(3))
    assert overlay.changed_after(video_key("video-5"), Position(3))


def test_all_of_a_log_that_begins_anew_changed_after_a_release_of_the_lost_one() -> None:
    overlay = Overlay(10, contents=False)
    overlay.take([upserted(4, "a")])
    assert overlay.changed_after(video_key("a"), Position(500))
    assert not overlay.changed_after(video_key("a"), Position(4))


def test_all_of_a_log_changed_after_a_release_of_another_log_however_far_that_was() -> None:
    overlay = Overlay(100)
    overlay.take([replace(upserted(position, "a"), log="this") for position in (1, 2, 3)])
    assert overlay.changed_after(video_key("a"), Position(3, "another", 1))
    assert not overlay.changed_after(video_key("a"), Position(3, "this", 1))
    assert not overlay.changed_after(video_key("a"), Position(3)), "of an earlier build"
