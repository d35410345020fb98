"""Activity features change with each watch as they are defined to."""

from __future__ import annotations

from server.features.activity import HISTORY_LIMIT, WATCHED_LIMIT, Activity, Watch
from server.features.keys import video_key


def test_a_watch_is_added_at_the_end_and_counted() -> None:
    first = Activity().after(Watch("a", 10, liked=True))
    second = first.after(Watch("b", 12, liked=False))
    assert second == Activity(
        history_ids=("a", "b"),
        history_times=(10, 12),
        watched_keys=(video_key("a"), video_key("b")),
        watch_count=2,
        like_count=1,
    )
    assert first.history_ids == ("a",), "the earlier value must not change"


def test_long_histories_forget_the_oldest_but_remember_what_was_watched() -> None:
    activity = Activity()
    total = HISTORY_LIMIT + 7
    for index in range(total):
        activity = activity.after(Watch(str(index), index, liked=False))
    assert activity.history_ids == tuple(str(index) for index in range(7, total))
    assert activity.history_times == tuple(range(7, total))
    assert len(activity.watched_keys) == total
    assert activity.watch_count == total


def test_watched_videos_are_bounded() -> None:
    full = Activity(watched_keys=tuple(range(WATCHED_LIMIT)), watch_count=WATCHED_LIMIT)
    after = full.after(Watch("new", 0, liked=False))
    assert after.watched_keys == (*range(1, WATCHED_LIMIT), video_key("new"))
