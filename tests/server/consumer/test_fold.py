"""The fold of events into a viewer's row: what each kind changes, in any order."""

from __future__ import annotations

import numpy as np
import pytest

from tests.builders.event_batches import LIKED_BY_FRACTION, as_lists, event, parts
from vireo.server.consumer import fold as folding
from vireo.server.consumer.fold import UnfitEventError, ViewerEvents, fold
from vireo.server.errors import VireoError
from vireo.server.features.activity import Bounce, EventRules
from vireo.server.features.keys import video_key
from vireo.server.features.viewer_rows import ViewerRow
from vireo.v1 import event_pb2

RATED = EventRules(liked_fraction=None)


def folded(events: list[event_pb2.Event], size: int, rules: EventRules) -> ViewerRow:
    """The viewer's row after some events, that many at a time."""
    row = ViewerRow()
    for some in parts(events, size):
        batch = ViewerEvents()
        for each in some:
            batch.add(each, rules)
        row = fold(row, batch).row
    return row


def row_of(*events: event_pb2.Event, rules: EventRules = LIKED_BY_FRACTION) -> ViewerRow:
    return folded(list(events), len(events), rules)


def test_a_thousand_events_give_the_same_row_in_any_order_twice_and_in_parts() -> None:
    chance = np.random.default_rng(5)
    events = [
        event(f"v{chance.integers(300)}", kind, second=int(chance.integers(1_000)))
        for kind in chance.choice([2, 3, 4, 5, 6], 1_000).tolist()
    ]
    expected = as_lists(row_of(*events))
    for seed, size in enumerate((1, 7, 37, 10_000)):
        np.random.default_rng(seed).shuffle(events)
        assert as_lists(folded(events + events[:300], size, LIKED_BY_FRACTION)) == expected


def test_a_like_of_a_video_that_was_not_watched_is_a_watch() -> None:
    row = row_of(event("a", event_pb2.EVENT_KIND_LIKE, second=9))
    assert (row.keys.tolist(), row.watches, row.likes) == ([video_key("a")], 1, 1)


@pytest.mark.parametrize(
    ("kind", "fraction", "by_fraction", "rated"),
    [
        (event_pb2.EVENT_KIND_FINISH, None, 1, 0),
        (event_pb2.EVENT_KIND_PLAY, 0.8, 1, 0),
        (event_pb2.EVENT_KIND_PLAY, 0.79, 0, 0),
        (event_pb2.EVENT_KIND_PLAY, None, 0, 0),
        (event_pb2.EVENT_KIND_LIKE, None, 1, 1),
    ],
)
def test_a_play_to_the_end_is_a_like_where_nothing_is_rated(
    kind: int, fraction: float | None, by_fraction: int, rated: int
) -> None:
    played = event("a", kind, second=9, fraction=fraction)
    assert row_of(played).likes == by_fraction
    assert row_of(played, rules=RATED).likes == rated


@pytest.mark.parametrize("kind", [event_pb2.EVENT_KIND_HIDE, event_pb2.EVENT_KIND_NOT_INTERESTED])
def test_a_hide_is_no_watch_and_counts_from_the_first_time(kind: int) -> None:
    row = row_of(event("a", kind, second=9), event("b", kind, second=4), event("a", kind, second=2))
    assert row.hidden_keys.tolist() == [video_key("a"), video_key("b")]
    assert row.hidden_times.tolist() == [2, 4]
    assert row.watches == 0


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_hidden_video_is_no_watch_whichever_comes_first(size: int) -> None:
    like, hide = event_pb2.EVENT_KIND_LIKE, event_pb2.EVENT_KIND_HIDE
    events = [
        event("a", like, second=1),
        event("b", second=2),
        event("a", hide, second=3),
        event("a", second=4),
    ]
    for some in (events, events[::-1]):
        row = folded(some, size, LIKED_BY_FRACTION)
        assert (row.keys.tolist(), row.watches, row.likes) == ([video_key("b")], 1, 0)
        assert row.hidden_keys.tolist() == [video_key("a")]


def test_a_hide_of_a_watched_video_changes_both_rows() -> None:
    hides = ViewerEvents()
    hides.add(event("a", event_pb2.EVENT_KIND_HIDE, second=9), LIKED_BY_FRACTION)
    after = fold(row_of(event("a", second=2)), hides)
    assert (after.activity, after.hidden, after.row.watches) == (True, True, 0)


@pytest.mark.parametrize(
    ("fraction", "seconds", "by_fraction", "by_seconds"),
    [
        (0.04, None, 0, 1),
        (0.05, None, 1, 1),
        (None, 9.0, 1, 0),
        (None, 10.0, 1, 1),
        (0.6, 9.0, 1, 1),
        (None, None, 1, 1),
    ],
)
def test_a_bounce_is_no_watch_if_what_was_watched_is_known(
    fraction: float | None, seconds: float | None, by_fraction: int, by_seconds: int
) -> None:
    played = event("a", second=9, fraction=fraction)
    if seconds is not None:
        played.watched_seconds = seconds
    for text, watches in (("0.05", by_fraction), ("10s", by_seconds), ("0", 1)):
        rules = EventRules(liked_fraction=0.8, bounce=Bounce.parse(text))
        assert row_of(played, rules=rules).watches == watches


@pytest.mark.parametrize("text", ["", "s", "1.5", "-1", "ten", "nan", "infs", "5%", "10 s"])
def test_what_is_no_rule_of_bounces_is_refused(text: str) -> None:
    with pytest.raises(VireoError, match=r"as in 0\.05, or seconds, as in 10s"):
        Bounce.parse(text)


def test_impressions_and_follows_change_nothing() -> None:
    events = ViewerEvents()
    events.add(event("a", event_pb2.EVENT_KIND_IMPRESSION, second=9), LIKED_BY_FRACTION)
    events.add(event("", event_pb2.EVENT_KIND_FOLLOW, second=9), LIKED_BY_FRACTION)
    after = fold(ViewerRow(), events)
    assert not after.activity
    assert not after.hidden


def test_an_event_that_is_known_changes_nothing() -> None:
    again = ViewerEvents()
    again.add(event("a", event_pb2.EVENT_KIND_LIKE, second=9), LIKED_BY_FRACTION)
    after = fold(row_of(event("a", event_pb2.EVENT_KIND_LIKE, second=9)), again)
    assert not after.activity
    assert after.watched == after.liked == ()


@pytest.mark.parametrize("broken", ["video_id", "time"])
def test_an_event_without_what_it_needs_is_refused(broken: str) -> None:
    bad = event("a", second=9)
    bad.ClearField(broken)  # type: ignore[arg-type]
    with pytest.raises(UnfitEventError, match="without a video or without a time"):
        ViewerEvents().add(bad, LIKED_BY_FRACTION)
    with pytest.raises(UnfitEventError, match="unknown kind 99"):
        ViewerEvents().add(event("a", 99, second=9), LIKED_BY_FRACTION)


def test_beyond_the_limits_the_last_videos_are_kept_and_all_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(folding, "WATCHED_LIMIT", 5)
    monkeypatch.setattr(folding, "HIDDEN_LIMIT", 3)
    plays = [event(f"v{n}", event_pb2.EVENT_KIND_LIKE, second=n) for n in range(9)]
    hides = [event(f"h{n}", event_pb2.EVENT_KIND_HIDE, second=n) for n in range(9)]
    row = row_of(*plays, *hides)
    assert row.keys.tolist() == [video_key(f"v{n}") for n in range(4, 9)]
    assert (row.watches, row.likes) == (9, 9)
    assert row.hidden_keys.tolist() == [video_key(f"h{n}") for n in (6, 7, 8)]
    # What isn't remembered any more may be repeated: it changes nothing.
    again = ViewerEvents()
    for each in (plays[2], hides[2]):
        again.add(each, LIKED_BY_FRACTION)
    assert as_lists(fold(row, again).row) == as_lists(row)
