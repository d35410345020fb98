from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.builders.watches import EPOCH, videos_frame, viewers_frame, watches_frame
from vireo.training.release import stage
from vireo.training.release.stage import FRESH_DAYS, FRESH_WATCHES, fresh_rows
from vireo.training.retrieval.data import RetrievalData


def catalogue(
    published: dict[str, int], watches: dict[str, int]
) -> tuple[RetrievalData, list[str]]:
    """Videos a to h, published some days before the last watch, with a number of viewers each.

    The last watch is one of "h", which everyone begins with.
    """
    ids = list("abcdefgh")
    videos = videos_frame(ids)
    dates = [EPOCH - pd.Timedelta(days=published[key]) if key in published else None for key in ids]
    videos["published"] = pd.Series(dates, dtype="datetime64[us, UTC]")
    viewers = {
        str(viewer): ["h", *[key for key, count in watches.items() if viewer < count]]
        for viewer in range(FRESH_WATCHES + 5)
    }
    data = RetrievalData.build(watches_frame(viewers, held_out=0), videos, viewers_frame({}))
    return data, [ids[row] for row in fresh_rows(data, videos)]


def test_new_videos_come_first_the_newest_of_them_before_the_others() -> None:
    many = FRESH_WATCHES + 1
    _, found = catalogue(
        {"a": 5, "b": 2, "c": FRESH_DAYS + 2, "d": -3}, dict.fromkeys("abcdefg", many)
    )
    assert found == ["d", "b", "a"]


def test_hardly_watched_videos_follow_the_fewest_watched_first() -> None:
    few = {"a": 3, "b": 1, "c": FRESH_WATCHES, "e": FRESH_WATCHES - 1, "f": 12, "g": 12}
    _, found = catalogue({"a": 1}, few)
    assert found == ["a", "d", "b", "e"]


def test_of_equally_watched_videos_the_newest_comes_first_and_those_without_a_date_last() -> None:
    old = {"a": 900, "b": 400, "c": 600}
    data, found = catalogue(old, dict.fromkeys("efg", 12))
    assert found == ["b", "c", "a", "d"]
    _, undated = catalogue({}, dict.fromkeys("efg", 12))
    assert undated == sorted("abcd", key=lambda video: data.keys["abcd".index(video)])


def test_no_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "FRESH_LIMIT", 2)
    data, found = catalogue({}, dict.fromkeys("efg", 12))
    assert len(found) == 2
    assert fresh_rows(data, videos_frame(list("abcdefgh"))).dtype == np.int64
