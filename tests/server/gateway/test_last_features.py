"""The features that are kept for when the store fails."""

from __future__ import annotations

import psutil
from vireo.v1.viewer_pb2 import ViewerFeatures

from server.gateway.last_features import LastFeatures


def viewer(watched: int) -> ViewerFeatures:
    return ViewerFeatures(watched_keys=range(watched), watch_count=watched)


def test_the_latest_features_are_found_by_data_set_and_viewer() -> None:
    last = LastFeatures(1 << 20, 60)
    last.keep("a", "1", viewer(3))
    last.keep("a", "1", viewer(4))
    found = last.find("a", "1")
    assert found is not None
    assert found.watch_count == 4
    assert last.find("b", "1") is None
    assert last.find("a", "2") is None


def test_it_is_forgotten_when_it_is_too_old() -> None:
    now = 0.0
    last = LastFeatures(1 << 20, 60, lambda: now)
    last.keep("a", "1", viewer(3))
    now = 59.9
    assert last.find("a", "1") is not None
    now = 60.1
    assert last.find("a", "1") is None


def test_memory_is_bounded_for_any_histories() -> None:
    most, before = 64 << 20, psutil.Process().memory_info().rss
    last = LastFeatures(most, 60)
    for number in range(3000):
        last.keep("a", str(number), viewer(10_000 if number % 3 else 10))
    taken = psutil.Process().memory_info().rss - before
    assert 0.4 * most < taken < 1.2 * most
    assert last.find("a", "2999") is not None
    assert last.find("a", "0") is None


def test_the_least_recently_used_are_evicted_first() -> None:
    last = LastFeatures(3 * 132_100 + 1000, 60)
    for name in ("1", "2", "3"):
        last.keep("a", name, viewer(10_000))
    assert last.find("a", "1") is not None
    last.keep("a", "4", viewer(10_000))
    assert [last.find("a", name) is not None for name in ("1", "2", "3", "4")] == [
        True,
        False,
        True,
        True,
    ]


def test_a_viewer_without_features_is_evicted() -> None:
    last = LastFeatures(1 << 20, 60)
    last.keep("a", "1", viewer(3))
    last.keep("a", "1", ViewerFeatures())
    assert last.find("a", "1") is None


def test_an_entry_above_the_limit_is_not_cached_and_evicts_nothing() -> None:
    last = LastFeatures(50_000, 60)
    last.keep("a", "1", viewer(3))
    last.keep("a", "2", viewer(10_000))
    assert last.find("a", "1") is not None
    assert last.find("a", "2") is None
    nothing = LastFeatures(0, 60)
    nothing.keep("a", "1", viewer(3))
    assert nothing.find("a", "1") is None
