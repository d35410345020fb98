"""The features that are kept for when the store fails."""

from __future__ import annotations

import subprocess
import sys

from tests.builders.clock import Clock
from vireo.server.gateway.viewer import LastFeatures
from vireo.v1.viewer_pb2 import ViewerFeatures


def viewer(watched: int) -> ViewerFeatures:
    return ViewerFeatures(watched_keys=range(watched), watch_count=watched)


def kept(last: LastFeatures, *viewers: str) -> list[bool]:
    return [last.find("a", each) is not None for each in viewers]


def test_the_latest_features_are_found_by_data_set_and_viewer() -> None:
    last = LastFeatures(1 << 20, 60)
    last.keep("a", "1", viewer(3))
    last.keep("a", "1", viewer(4))
    found = last.find("a", "1")
    assert found is not None
    assert found.watch_count == 4
    assert last.find("b", "1") is None
    last.keep("a", "3", ViewerFeatures(shown_keys=[1], shown_times=[60]))
    assert kept(last, "3") == [True]
    last.keep("a", "1", ViewerFeatures())
    assert kept(last, "1", "2") == [False, False], "unknown viewers are dropped"


def test_memory_is_bounded_for_any_histories() -> None:
    # In a process of its own, which has no freed memory that the cache could take instead.
    script = (
        "import psutil\n"
        "from vireo.server.gateway.viewer import LastFeatures\n"
        "from vireo.v1.viewer_pb2 import ViewerFeatures\n"
        "last, before = LastFeatures(64 << 20, 60), psutil.Process().memory_info().rss\n"
        "for number in range(3000):\n"
        "    watched = range(10_000 if number % 3 else 10)\n"
        "    last.keep('a', str(number), ViewerFeatures(watched_keys=watched))\n"
        "assert last.find('a', '2999') and not last.find('a', '0')\n"
        "print((psutil.Process().memory_info().rss - before) / (64 << 20))\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout
    assert 0.4 < float(printed.splitlines()[-1]) < 1.2


def test_what_is_too_old_is_forgotten_when_others_are_looked_for_or_kept_and_not_by_a_scrape() -> (
    None
):
    clock = Clock(0.0)
    last = LastFeatures(1 << 20, 60, clock)
    last.keep("a", "1", viewer(3))
    clock.now = 59.9
    assert kept(last, "1") == [True]
    clock.now = 60.1
    size = last.bytes
    assert size > 0
    assert kept(last, "1") == [False]
    last.keep("a", "2", viewer(3))
    assert last.bytes == size


def test_whoever_was_read_longest_ago_is_evicted_first() -> None:
    last = LastFeatures(3 * 132_100 + 1000, 60)
    for name in ("1", "2", "3", "1", "4"):
        last.keep("a", name, viewer(10_000))
    assert kept(last, "1", "2", "3", "4") == [True, False, True, True]


def test_an_entry_above_the_limit_is_not_cached_and_evicts_nothing() -> None:
    last = LastFeatures(50_000, 60)
    last.keep("a", "1", viewer(3))
    last.keep("a", "2", viewer(10_000))
    assert kept(last, "1", "2") == [True, False]
