from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from tests.builders.clock import Clock
from vireo.server.recommend.catalogue.trends import (
    MERGE_SECONDS,
    MIN_LOCALE_WEIGHT,
    OVERALL,
    Trends,
)
from vireo.v1.log_pb2 import Trending, TrendingVideos

HALF_LIFE = 3600.0


def told(at: int, weights: dict[int, float], locale: str = "", **shown: int) -> bytes:
    videos = TrendingVideos(locale=locale, keys=weights.keys(), weights=weights.values())
    message = Trending(lists=[videos], at=Timestamp(seconds=at))
    message.new_keys.extend(int(key.removeprefix("key_")) for key in shown)
    message.new_impressions.extend(shown.values())
    return message.SerializeToString()


def test_partitions_are_merged_at_one_time() -> None:
    trends = Trends(HALF_LIFE)
    trends.update("trending.0", told(3600, {1: 3.0, 2: 1.0}))
    trends.update("trending.1", told(0, {2: 8.0, 3: 5.0}))
    assert trends.lists[OVERALL].tolist() == [2, 1, 3]


def test_locales_have_lists_of_their_own_and_impressions_add_up() -> None:
    trends = Trends(HALF_LIFE)
    trends.update("trending.0", told(0, {1: 10.0}, "de", key_7=3))
    trends.update("trending.1", told(0, {2: 20.0}, "de", key_7=4, key_8=1))
    assert trends.lists["de"].tolist() == [2, 1]
    assert [trends.impressions(key) for key in (7, 8, 9)] == [7, 1, 0]


def test_a_few_plays_put_no_video_on_a_locales_list() -> None:
    trends = Trends(HALF_LIFE)
    few, enough = MIN_LOCALE_WEIGHT / 2 - 0.1, MIN_LOCALE_WEIGHT / 2
    trends.update("trending.0", told(0, {1: few, 2: enough}, "rm"))
    assert trends.lists == {}
    trends = Trends(HALF_LIFE)
    for partition in range(2):
        trends.update(f"trending.{partition}", told(0, {1: few, 2: enough}, "rm"))
    assert trends.lists["rm"].tolist() == [2]


def test_a_partition_counts_once_by_its_last_message() -> None:
    clock = Clock(0.0)
    trends = Trends(HALF_LIFE, clock)
    trends.update("trending.0", told(0, {1: 1.0}))
    assert trends.lists[OVERALL].tolist() == [1]
    trends.update("trending.0", told(0, {2: 1.0}))
    assert trends.lists[OVERALL].tolist() == [1]  # merged a moment ago
    clock.now += MERGE_SECONDS
    assert trends.lists[OVERALL].tolist() == [2]


def test_other_state_and_garbage_change_nothing() -> None:
    trends = Trends(HALF_LIFE)
    trends.update("progress.0", told(0, {1: 1.0}))
    trends.update("trending.0", b"\xff\xff")
    uneven = Trending(lists=[TrendingVideos(keys=[1, 2], weights=[1.0])])
    trends.update("trending.0", uneven.SerializeToString())
    assert trends.lists == {}
