from __future__ import annotations

import math

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from vireo.server.consumer import live_state as trending
from vireo.server.consumer.live_state import TrendingCounts
from vireo.server.event_log.log import Position
from vireo.v1 import log_pb2

HOUR = 3600.0
NOW = 1_700_000_000.0


def weights(counts: TrendingCounts, now: float, locale: str = "") -> dict[int, float]:
    told = counts.message(now)
    assert told.at.ToNanoseconds() / 1e9 == pytest.approx(now)
    return {
        key: weight
        for each in told.lists
        if each.locale == locale
        for key, weight in zip(each.keys, each.weights, strict=True)
    }


def test_a_count_halves_in_each_half_life_whatever_the_order() -> None:
    early, late = TrendingCounts(6 * HOUR), TrendingCounts(6 * HOUR)
    times = [NOW - 12 * HOUR, NOW - 6 * HOUR, NOW]
    for at in times:
        early.add(1, at)
    for at in reversed(times):
        late.add(1, at)
    assert weights(early, NOW) == pytest.approx({1: 1.75})
    assert weights(late, NOW) == pytest.approx({1: 1.75})
    assert weights(early, NOW + 6 * HOUR) == pytest.approx({1: 0.875})


def test_counts_stay_right_over_thousands_of_half_lives() -> None:
    counts = TrendingCounts(1.0)
    for second in range(0, 5_000, 50):
        counts.add(second, NOW + second)
    counts.add(7, NOW + 4_950)
    counts.add(8, NOW)  # long ago: it weighs nothing
    told = weights(counts, NOW + 4_950)
    assert list(told)[:2] == [7, 4_950]
    assert told[7] == pytest.approx(1.0)
    assert told[4_900] == pytest.approx(0.0)


@pytest.mark.parametrize("half_life", [1e-9, 1.0, 6 * HOUR])
@pytest.mark.parametrize("told_at", [0, int(NOW), 253_402_300_799])
def test_no_clock_and_no_event_time_ends_the_count(half_life: float, told_at: int) -> None:
    empty = log_pb2.Trending(counted="1", at=Timestamp(seconds=told_at))
    counts = TrendingCounts.restored(empty, half_life)
    far = 253_402_300_799.0  # the year 9999
    for key, at in enumerate((NOW, 0.0, far, NOW - 7 * 86_400)):
        counts.add(key, at, "de")
    for now in (NOW, NOW - 86_400, 0.0, far):
        told = counts.message(now)
        assert all(math.isfinite(weight) for each in told.lists for weight in each.weights)


def test_after_a_clock_that_was_set_back_events_count_again() -> None:
    counts = TrendingCounts(1.0)
    counts.add(1, NOW)
    assert weights(counts, NOW - 86_400) == pytest.approx({1: 1.0})
    counts.add(2, NOW - 86_400)
    assert weights(counts, NOW - 86_400) == pytest.approx({1: 1.0, 2: 1.0})


def test_the_heaviest_come_first_and_ties_by_key() -> None:
    counts = TrendingCounts(HOUR)
    for key in (5, 3, 9, 9):
        counts.add(key, NOW)
    assert list(weights(counts, NOW)) == [9, 3, 5]


def test_locales_are_counted_besides_and_the_lightest_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trending, "MAX_LOCALES", 2)
    counts = TrendingCounts(HOUR)
    for locale, times in (("de-CH", 3), ("fr", 1), ("it", 2)):
        for _ in range(times):
            counts.add(1, NOW, locale)
    assert weights(counts, NOW) == pytest.approx({1: 6.0})
    assert weights(counts, NOW, "de-ch") == pytest.approx({1: 3.0})
    assert weights(counts, NOW, "it") == pytest.approx({1: 2.0})
    assert weights(counts, NOW, "fr") == {}


def test_memory_is_bounded_and_the_heavy_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trending, "MAX_VIDEOS", 50)
    monkeypatch.setattr(trending, "MAX_NEW_VIDEOS", 50)
    counts = TrendingCounts(HOUR)
    new = set(range(10_000))
    for key in range(10_000):
        counts.add(-1, NOW)
        counts.add(key, NOW)
        counts.show([("a", -1), (f"v{key}", 5), ("a", key)], new)
    told = counts.message(NOW)
    assert len(told.lists[0].keys) <= 100
    assert told.lists[0].keys[0] == -1
    assert told.lists[0].weights[0] == pytest.approx(10_000)
    assert len(told.new_keys) == 50
    assert (told.new_keys[0], told.new_impressions[0]) == (5, 10_001)
    assert -1 not in told.new_keys


def test_a_message_of_the_largest_counts_fits_the_log() -> None:
    counts = TrendingCounts(HOUR)
    large = range(2**62, 2**62 + trending.MAX_NEW_VIDEOS)
    for number in range(trending.LISTED_LOCALES):
        for key in large[: trending.LISTED_LOCALE_VIDEOS]:
            counts.add(key, NOW, f"locale-{number}")
    for key in large:
        counts.add(key, NOW)
    counts.show([("a", key) for key in large], set(large))
    assert counts.message(NOW).ByteSize() < 500_000


def test_counting_goes_on_from_what_was_told() -> None:
    counts = TrendingCounts(HOUR)
    counts.add(1, NOW, "de")
    counts.show([("a", 1)], {1})
    counts.position = Position(9, "log", 1)
    again = TrendingCounts.restored(counts.message(NOW + HOUR), HOUR)
    assert again.position == counts.position
    again.add(1, NOW + HOUR, "de")
    assert weights(again, NOW + HOUR) == pytest.approx({1: 1.5})
    assert weights(again, NOW + HOUR, "de") == pytest.approx({1: 1.5})
    assert list(again.message(NOW).new_impressions) == [1]


def test_a_viewer_is_shown_a_new_video_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trending, "MAX_SHOWN_PAIRS", 3)
    counts = TrendingCounts(HOUR)
    for _ in range(5):
        counts.show([("a", 1), ("b", 1), ("a", 9)], {1})
    assert list(counts.message(NOW).new_impressions) == [2]
    counts.show([("c", 1), ("d", 1)], {1})  # the first pair is forgotten
    counts.show([("a", 1)], {1})
    assert list(counts.message(NOW).new_impressions) == [5]
