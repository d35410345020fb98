from __future__ import annotations

import numpy as np
import pandas as pd

from tests.builders.watches import EPOCH, videos_frame, viewers_frame, watches_frame
from vireo.training.retrieval.data import RetrievalData


def targets(data: RetrievalData) -> list[int]:
    return [held_out.target for held_out in data.validation]


def test_watches_become_rows_in_order_and_the_validation_watch_is_kept_apart() -> None:
    data = RetrievalData.build(
        watches_frame({"b": ["x", "z"], "a": ["z", "y", "x"]}),
        videos_frame(["x", "y", "z"]),
        viewers_frame({}),
    )

    assert data.viewer_ids == ("a", "b")
    assert data.watched(0).tolist() == [2, 1]
    assert data.watched(1).tolist() == [0]
    assert targets(data) == [0, 2]
    assert data.watch_counts().tolist() == [1, 1, 1]


def test_the_test_part_is_never_looked_at() -> None:
    watches = watches_frame({"a": ["x", "y", "z"], "b": ["z", "x", "y"]})
    watches.loc[watches["part"] == "validation", "part"] = "test"
    videos, viewers = videos_frame(["x", "y", "z"]), viewers_frame({})
    without = RetrievalData.build(watches[watches["part"] != "test"], videos, viewers)

    data = RetrievalData.build(watches, videos, viewers)

    assert data.fingerprint() == without.fingerprint()
    assert targets(data) == []


def test_a_viewer_with_a_single_held_out_watch_has_an_empty_history() -> None:
    data = RetrievalData.build(
        watches_frame({"a": ["x"], "b": ["x", "y"]}), videos_frame(["x", "y"]), viewers_frame({})
    )

    assert data.watched(0).tolist() == []
    assert targets(data) == [0, 1]
    assert len(data.viewer_features(0).history_keys) == 0


def test_missing_attributes_and_content_need_no_special_path() -> None:
    data = RetrievalData.build(
        watches_frame({"a": ["0", "1"]}), videos_frame(["0", "1"]), viewers_frame({})
    )

    assert data.vocabulary == {}
    assert data.content_vocabulary == {}
    assert not data.attributes().any()
    assert not data.content.any()


def test_attributes_of_a_viewer_find_their_ids() -> None:
    shared = {viewer: ["age=30", f"zip={viewer}"] for viewer in ("a", "b")}

    data = RetrievalData.build(
        watches_frame({"a": ["x", "y"], "b": ["y", "x"], "c": ["y", "x"]}),
        videos_frame(["x", "y"]),
        viewers_frame(shared),
    )

    assert data.vocabulary == {"age=30": 1}
    assert data.attributes()[:, 0].tolist() == [1, 1, 0]


def test_fingerprints_of_data_sets_differ() -> None:
    videos, viewers = videos_frame(["x", "y", "z"]), viewers_frame({})
    watches = watches_frame({"a": ["x", "y", "z"]})
    later = watches.assign(time=watches["time"] + pd.Timedelta(days=1))

    prints = {
        RetrievalData.build(frame, videos, viewers).fingerprint() for frame in (watches, later)
    }

    assert len(prints) == 2


def test_viewer_features_end_with_the_train_part() -> None:
    data = RetrievalData.build(
        watches_frame({"a": ["x", "y", "z"]}), videos_frame(["x", "y", "z"]), viewers_frame({})
    )

    viewer = data.viewer_features(0)

    assert data.video_rows().find(viewer.history_keys).tolist() == [0, 1]
    assert np.diff(viewer.history_times).tolist() == [3600]


def test_validation_asks_for_the_last_watch_after_all_before_it() -> None:
    data = RetrievalData.build(
        watches_frame({"a": ["x", "y", "z"], "b": ["z", "y"]}, held_out=2),
        videos_frame(["x", "y", "z"]),
        viewers_frame({"b": ["age=30"], "a": ["age=30"]}),
    )

    first, second = data.validation

    assert data.watched(0).tolist() == [0]
    assert data.watched(1).tolist() == []
    assert (first.watched.tolist(), first.target) == ([0, 1], 2)
    assert (second.watched.tolist(), second.target) == ([2], 1)
    assert data.video_rows().find(first.viewer.history_keys).tolist() == [0, 1]
    assert np.diff(first.viewer.history_times).tolist() == [3600]
    assert second.viewer.attributes == ("age=30",)


def test_a_video_counts_as_published_from_its_first_watch_at_the_latest() -> None:
    watches = watches_frame({"x": ["a", "b", "c", "d"], "y": ["b", "d"]})
    videos = videos_frame(["a", "b", "c", "d", "e"])
    assert RetrievalData.build(watches, videos, viewers_frame({})).published is None

    start, hour = int(EPOCH.timestamp()), 3600
    days = [EPOCH, EPOCH + pd.Timedelta(hours=9), EPOCH + pd.Timedelta(hours=1), pd.NaT, EPOCH]
    videos["published"] = pd.Series(days, dtype="datetime64[us, UTC]")
    published = RetrievalData.build(watches, videos, viewers_frame({})).published

    assert published is not None
    assert published.tolist() == [start, start, start + hour, 0, start]


def test_dates_of_publication_are_part_of_the_fingerprint() -> None:
    watches, videos = watches_frame({"x": ["a", "b", "c"]}), videos_frame(["a", "b", "c"])
    before = RetrievalData.build(watches, videos, viewers_frame({})).fingerprint()

    videos["published"] = pd.Series([pd.NaT, EPOCH, EPOCH], dtype="datetime64[us, UTC]")

    assert RetrievalData.build(watches, videos, viewers_frame({})).fingerprint() != before
