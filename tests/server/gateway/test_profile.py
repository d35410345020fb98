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


def test_watches_of_the_request_are_put_in_by_their_time() -> None:
    profile = RequestProfile(history=[watched("b", 200), watched("c", 50)])
    viewer = with_profile(STORED, profile, asked_at=300)
    assert list(viewer.history_keys) == [C, A, B]
    assert list(viewer.history_times) == [50, 100, 200]
    assert sorted(viewer.watched_keys) == sorted([A, B, C])
    assert (viewer.watch_count, viewer.like_count) == (3, 1)


def test_a_watch_without_a_time_is_the_last() -> None:
    viewer = with_profile(STORED, RequestProfile(history=[watched("b")]), asked_at=300)
    assert list(viewer.history_keys) == [A, B]
    assert list(viewer.history_times) == [100, 300]


def test_a_stored_watch_keeps_its_place_and_counts_once() -> None:
    profile = RequestProfile(history=[watched("a", 500), watched("b", 9), watched("b", 8)])
    viewer = with_profile(STORED, profile, asked_at=600)
    assert list(viewer.history_keys) == [B, A]
    assert list(viewer.history_times) == [8, 100]
    assert viewer.watch_count == 2


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
    viewer = with_profile(STORED, RequestProfile(attributes=["country=DE"]), asked_at=0)
    assert list(viewer.attributes) == ["country=DE", "plan=free"]


def test_the_stored_features_are_left_as_they_are() -> None:
    before = STORED.SerializeToString(deterministic=True)
    profile = RequestProfile(history=[watched("b", 5)], attributes=["plan=premium"])
    with_profile(STORED, profile, asked_at=9)
    assert STORED.SerializeToString(deterministic=True) == before


def test_a_time_before_1970_counts_as_1970() -> None:
    viewer = with_profile(STORED, RequestProfile(history=[watched("b", -5)]), asked_at=9)
    assert list(viewer.history_times) == [0, 100]
