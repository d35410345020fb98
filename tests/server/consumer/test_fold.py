"""The fold of events against the offline build of the same interactions."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders.datasets import VIEWER_COUNT, random_interactions, write_small_dataset
from tests.builders.event_batches import (
    HIDE,
    LIKE,
    LIKED_BY_FRACTION,
    PLAY,
    event,
    events_in_disorder,
    parts,
)
from vireo.server.consumer import fold as folding
from vireo.server.consumer.fold import UnfitEventError, ViewerEvents, fold
from vireo.server.errors import VireoError
from vireo.server.features.activity import Bounce, EventRules
from vireo.server.features.keys import video_key
from vireo.server.features.online_store import open_rows
from vireo.server.features.viewer_rows import Change, ViewerRow
from vireo.server.home import Home
from vireo.training.features.build import build_features
from vireo.v1 import event_pb2


def folded(events: list[event_pb2.Event], size: int, rules: EventRules) -> dict[str, ViewerRow]:
    """The rows after some events, that many at a time."""
    rows: dict[str, ViewerRow] = {}
    for some in parts(events, size):
        batch: dict[str, ViewerEvents] = {}
        for each in some:
            batch.setdefault(each.viewer_id, ViewerEvents()).add(each, rules)
        for viewer, viewers_events in batch.items():
            rows[viewer] = fold(rows.get(viewer, ViewerRow()), viewers_events).row
    return rows


def built(repo: Path) -> dict[str, Any]:
    """The row of each viewer in the online store."""
    viewers = [f"w{number}" for number in range(VIEWER_COUNT)]
    with closing(open_rows(repo, 5)) as rows:
        return dict(zip(viewers, rows.read(viewers), strict=True))


def assert_same(left: dict[str, ViewerRow], right: dict[str, ViewerRow]) -> None:
    assert left == right
    for viewer, row in left.items():
        for name in ("watched", "hides", "followed"):
            assert [*getattr(row, name)] == [*getattr(right[viewer], name)], "in this order"


def rated_interactions() -> pd.DataFrame:
    interactions = random_interactions()
    ratings = np.random.default_rng(1).integers(1, 6, len(interactions)).astype("float32")
    return interactions.assign(rating=np.where(interactions["event"] == "play", ratings, np.nan))


@pytest.mark.parametrize(
    "interactions", [random_interactions(), rated_interactions()], ids=["fractions", "ratings"]
)
def test_events_in_any_order_twice_and_in_parts_give_the_offline_rows(
    interactions: pd.DataFrame, tmp_path: Path
) -> None:
    home = Home(tmp_path)
    write_small_dataset(home, "small", interactions)
    build_features(home, "small", holdout="none")
    repo = home.features("small")
    rules = EventRules.load(repo)
    assert rules == LIKED_BY_FRACTION
    expected = built(repo)
    assert sum(row.likes for row in expected.values()) > 50
    assert sum(len(row.hides) for row in expected.values()) > 50
    assert sum(len(row.shown[0]) for row in expected.values()) > 50
    for seed, size in enumerate((1, 7, 10_000)):
        assert_same(folded(events_in_disorder(interactions, seed), size, rules), expected)


def test_a_thousand_events_of_one_viewer_give_the_same_row_in_any_order() -> None:
    chance = np.random.default_rng(5)
    events = [
        event("v", f"v{chance.integers(300)}", kind, int(chance.integers(1_000)), creator="c")
        for kind in chance.choice([1, 2, 3, 4, 5, 6, 7], 1_000).tolist()
    ]
    expected = folded(events, 1_000, LIKED_BY_FRACTION)
    for seed in range(5):
        np.random.default_rng(seed).shuffle(events)
        assert_same(folded(events + events[:300], 37, LIKED_BY_FRACTION), expected)


def row_of(*events: event_pb2.Event, rules: EventRules = LIKED_BY_FRACTION) -> ViewerRow:
    return folded(list(events), len(events), rules)["v"]


@pytest.mark.parametrize(
    ("kind", "fraction", "likes"),
    [
        (event_pb2.EVENT_KIND_FINISH, None, 1),
        (PLAY, 0.8, 1),
        (PLAY, 0.79, 0),
        (PLAY, None, 0),
        (LIKE, None, 1),
    ],
)
def test_a_play_almost_to_the_end_is_a_like(kind: int, fraction: float | None, likes: int) -> None:
    assert row_of(event("v", "a", kind, 9, watched_fraction=fraction)).likes == likes


@pytest.mark.parametrize("kind", [HIDE, event_pb2.EVENT_KIND_NOT_INTERESTED])
def test_a_hide_is_no_watch_and_counts_from_the_first_time(kind: int) -> None:
    row = row_of(event("v", "a", kind, 9), event("v", "b", kind, 4), event("v", "a", kind, 2))
    assert [*row.hides.items()] == [(video_key("a"), 2), (video_key("b"), 4)]
    assert row.watches == 0


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_hidden_video_is_no_watch_whichever_comes_first(size: int) -> None:
    events = [
        event("v", "a", LIKE, 1),
        event("v", "b", at=2),
        event("v", "a", HIDE, 3),
        event("v", "a", at=4),
    ]
    for some in (events, events[::-1]):
        row = folded(some, size, LIKED_BY_FRACTION)["v"]
        assert ([*row.watched], row.watches, row.likes) == ([video_key("b")], 1, 0)
        assert [*row.hides] == [video_key("a")]


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
    played = event("v", "a", watched_fraction=fraction)
    if seconds is not None:
        played.watched_seconds = seconds
    for text, watches in (("0.05", by_fraction), ("10s", by_seconds), ("0", 1)):
        rules = EventRules(liked_fraction=0.8, bounce=Bounce.parse(text))
        assert row_of(played, rules=rules).watches == watches


@pytest.mark.parametrize("text", ["", "s", "1.5", "-1", "ten", "nan", "infs", "5%", "10 s"])
def test_what_is_no_rule_of_bounces_is_refused(text: str) -> None:
    with pytest.raises(VireoError, match=r"as in 0\.05, or seconds, as in 10s"):
        Bounce.parse(text)


def shown(video: str, at: float) -> event_pb2.Event:
    return event("v", video, event_pb2.EVENT_KIND_IMPRESSION, at)


def follow(creator: str, at: float) -> event_pb2.Event:
    return event("v", "", event_pb2.EVENT_KIND_FOLLOW, at, creator=creator)


def test_impressions_within_a_minute_are_one_and_follows_count_from_the_first() -> None:
    row = row_of(shown("a", 130), shown("a", 61), shown("b", 179.9), shown("a", 119))
    pairs = sorted([(60, video_key("a")), (120, video_key("a")), (120, video_key("b"))])
    assert row == ViewerRow(shown=(tuple(key for _, key in pairs), (60, 120, 120)))
    row = row_of(follow("x", 9), follow("y", 4), follow("x", 2))
    assert row == ViewerRow(followed={video_key("x"): 2, video_key("y"): 4})
    assert [*row.followed] == [video_key("x"), video_key("y")]


def test_impressions_and_follows_need_no_other_part_of_a_row() -> None:
    before = row_of(event("v", "a", LIKE, 9), event("v", "b", HIDE, 9))
    events = ViewerEvents()
    for each in (shown("a", 9), follow("x", 9)):
        events.add(each, LIKED_BY_FRACTION)
    change = fold(before, events)
    assert events.views == tuple(change.views) == ("viewer_shown", "viewer_followed")
    assert (change.row.watched, change.row.hides) == (before.watched, before.hides)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_last_impressions_and_follows_are_the_same_however_they_come(
    data: st.DataObject,
) -> None:
    moments = st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 900))
    drawn = data.draw(st.lists(moments, min_size=1, max_size=40))
    events = [shown(name, at) for name, at in drawn]
    events += [follow(f"{name} {at}", at) for name, at in drawn]
    again = data.draw(st.permutations([*events, *data.draw(st.lists(st.sampled_from(events)))]))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(folding, "SHOWN_LIMIT", 6)
        patched.setattr(folding, "FOLLOWED_LIMIT", 4)
        expected = folded(events, len(events), LIKED_BY_FRACTION)
        assert_same(folded(again, data.draw(st.integers(1, 9)), LIKED_BY_FRACTION), expected)
    every = sorted({(at - at % 60, video_key(name)) for name, at in drawn})[-6:]
    assert expected["v"].shown == (tuple(k for _, k in every), tuple(at for at, _ in every))
    last = sorted({(at, video_key(f"{name} {at}")) for name, at in drawn})[-4:]
    assert [*expected["v"].followed.items()] == [(key, at) for at, key in last]


def test_an_event_that_is_known_changes_nothing() -> None:
    again = ViewerEvents()
    again.add(event("v", "a", LIKE, 9), LIKED_BY_FRACTION)
    before = row_of(event("v", "a", LIKE, 9))
    assert fold(before, again) == Change(before, [], [], ["viewer_activity"])


@pytest.mark.parametrize("broken", ["viewer_id", "video_id", "time"])
def test_an_event_without_what_it_needs_is_refused(broken: str) -> None:
    bad = event("v", "a", at=9)
    bad.ClearField(broken)  # type: ignore[arg-type]
    with pytest.raises(UnfitEventError, match="without a viewer, a video or a time"):
        ViewerEvents().add(bad, LIKED_BY_FRACTION)
    bad.kind, bad.creator = event_pb2.EVENT_KIND_FOLLOW, "x" if bad.video_id else ""
    with pytest.raises(UnfitEventError, match="without a viewer, a creator or a time"):
        ViewerEvents().add(bad, LIKED_BY_FRACTION)
    with pytest.raises(UnfitEventError, match="unknown kind 99"):
        ViewerEvents().add(event("v", "a", 99, 9), LIKED_BY_FRACTION)


@pytest.mark.parametrize(("seconds", "nanos"), [(2**60, 0), (-5, 0), (1, -1), (1, 10**9)])
def test_an_event_of_an_impossible_time_is_refused(seconds: int, nanos: int) -> None:
    bad = event("v", "a")
    bad.time.seconds, bad.time.nanos = seconds, nanos
    with pytest.raises(UnfitEventError, match="between the years 1970 and 9999"):
        ViewerEvents().add(bad, LIKED_BY_FRACTION)


def test_beyond_the_limits_the_last_videos_are_kept_and_all_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(folding, "WATCHED_LIMIT", 5)
    monkeypatch.setattr(folding, "HIDDEN_LIMIT", 3)
    plays = [event("v", f"v{n}", LIKE, n) for n in range(9)]
    hides = [event("v", f"h{n}", HIDE, n) for n in range(9)]
    row = row_of(*plays, *hides)
    assert [*row.watched] == [video_key(f"v{n}") for n in range(4, 9)]
    assert (row.watches, row.likes) == (9, 9)
    assert [*row.hides] == [video_key(f"h{n}") for n in (6, 7, 8)]
    # What isn't remembered any more may be repeated: it changes nothing.
    again = ViewerEvents()
    for each in (plays[2], hides[2]):
        again.add(each, LIKED_BY_FRACTION)
    assert fold(row, again).row == row
