import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from vireo.server.features.activity import HISTORY_LIMIT
from vireo.server.features.keys import video_key
from vireo.server.gateway.viewer import with_profile
from vireo.v1.recommendation_pb2 import RequestProfile, WatchedVideo
from vireo.v1.viewer_pb2 import ViewerFeatures

A, B, C = (video_key(video) for video in "abc")
STORED = ViewerFeatures(
    history_keys=[A],
    history_times=[100],
    watched_keys=[A],
    attributes=["country=CH", "plan=free"],
    watch_count=1,
    like_count=1,
)


def watched(video: str, seconds: int | None = None) -> WatchedVideo:
    time = None if seconds is None else Timestamp(seconds=seconds)
    return WatchedVideo(video_id=video, time=time)


@pytest.mark.parametrize(
    ("watches", "history"),
    [
        ([("b", 200), ("c", 50)], {C: 50, A: 100, B: 200}),
        ([("b", None)], {A: 100, B: 300}),  # now
        ([("b", -5)], {B: 0, A: 100}),
        ([("a", 500), ("b", 9), ("b", 8)], {B: 8, A: 100}),  # the first watch of each counts
    ],
)
def test_watches_of_the_request_are_put_in_by_their_time(
    watches: list[tuple[str, int | None]], history: dict[int, int]
) -> None:
    before = STORED.SerializeToString(deterministic=True)
    profile = RequestProfile(history=[watched(*each) for each in watches])
    viewer = with_profile(STORED, profile, asked_at=300)
    found = zip(viewer.history_keys, viewer.history_times, strict=True)
    assert [*found] == [*history.items()]
    assert sorted(viewer.watched_keys) == sorted(history)
    assert (viewer.watch_count, viewer.like_count) == (len(history), 1)
    assert STORED.SerializeToString(deterministic=True) == before


def test_the_history_is_bounded_and_keeps_the_latest() -> None:
    stored = ViewerFeatures(
        history_keys=range(HISTORY_LIMIT),
        history_times=range(HISTORY_LIMIT),
        watched_keys=range(HISTORY_LIMIT),
    )
    viewer = with_profile(stored, RequestProfile(history=[watched("b", 10**9)]), asked_at=0)
    assert len(viewer.history_keys) == HISTORY_LIMIT
    assert viewer.history_keys[-1] == B
    assert viewer.history_keys[0] == 1
    assert len(viewer.watched_keys) == HISTORY_LIMIT + 1


def test_an_attribute_of_the_request_replaces_the_stored_one_of_its_name() -> None:
    before = STORED.SerializeToString(deterministic=True)
    viewer = with_profile(STORED, RequestProfile(attributes=["country=DE"]), asked_at=0)
    assert list(viewer.attributes) == ["country=DE", "plan=free"]
    assert STORED.SerializeToString(deterministic=True) == before
