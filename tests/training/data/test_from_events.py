"""Events and the catalogue of a real log in data sets, and what of them a base has already."""

from __future__ import annotations

import time

import pandas as pd
import pytest

from tests.builders.datasets import random_interactions
from tests.builders.logged_data import (
    PARTITIONS,
    LoggedData,
    append_messages,
    event,
    purge_events,
    removed,
    upserted,
)
from vireo.server.errors import VireoError
from vireo.server.event_log.log import CATALOG, EVENTS, REMOVED, LogAwayError, partition_of
from vireo.server.features.activity import Bounce
from vireo.server.features.keys import video_key
from vireo.server.recommend.catalogue.overlay import Takedowns
from vireo.server.releases.layout import TAKEDOWNS
from vireo.training.data.dataset import load_dataset
from vireo.training.data.log_events import interaction_events
from vireo.training.features.build import build_features
from vireo.v1 import catalog_pb2, log_pb2


def test_a_data_set_sent_as_events_comes_back_with_the_same_features(logged: LoggedData) -> None:
    events = list(interaction_events("small", random_interactions()))
    # All twice, from the last to the first.
    logged.record(events[::-1], events)
    logged.change(*map(upserted, load_dataset(logged.home, "small").videos["video_id"]))
    info = logged.made(base=None, bounce=Bounce())
    assert info.problems["events sent again dropped"] == len(events)
    for name in ("small", "live"):
        build_features(logged.home, name, holdout="none")
    for table in ("viewer_activity", "viewer_hidden"):
        one, other = (
            pd.read_parquet(logged.home.features(name) / f"{table}.parquet")
            .groupby("viewer_id")
            .tail(1)
            .sort_values("viewer_id", ignore_index=True)
            for name in ("small", "live")
        )
        pd.testing.assert_frame_equal(one, other)


def test_viewers_may_have_the_same_event_ids(logged: LoggedData) -> None:
    logged.record([event(1, viewer, "v1") for viewer in ("n1", "n2", "n1", "n2")])
    info = logged.made()
    assert info.interactions == len(random_interactions()) + 2
    assert info.problems["events sent again dropped"] == 2


def test_an_event_that_is_sent_again_after_the_base_was_made_counts_once(
    logged: LoggedData,
) -> None:
    logged.record([event(1, "w1", "v1"), event(2, "w2", "v1", "LIKE")])
    first = logged.made()
    logged.record([event(1, "w1", "v1"), event(2, "w2", "v1", "LIKE")])
    logged.record([event(3, "w1", "v1", second=1), event(4, "w1", "v1", "LIKE")])
    second = logged.made("live")
    assert second.interactions == first.interactions + 2
    assert second.problems["events that the base has dropped"] == 2
    assert load_dataset(logged.home, "live").interactions["row"].is_unique


def test_distinct_events_of_one_moment_are_none_that_the_base_has(logged: LoggedData) -> None:
    """A finish is a play whose fraction is known: the base has no event ids to tell them apart."""
    logged.record([event(1, "w1", "v1")])
    first = logged.made()
    # It has a fraction now that the video has a duration, for example.
    again = event(1, "w1", "v1", watched_fraction=0.3)
    logged.record([event(2, "w1", "v1", "FINISH"), again])
    second = logged.made("live")
    assert second.interactions == first.interactions + 1
    own = logged.of_viewer("w1").query("video_id == 'v1'")
    assert own.groupby("timestamp")["watched_fraction"].max().iloc[-1] == 1


def test_an_erasure_spares_what_the_base_has_of_later_though_the_log_is_read_from_its_begin(
    logged: LoggedData,
) -> None:
    own = random_interactions().query("viewer_id == 'w1'").sort_values("timestamp")
    middle = own["timestamp"].iloc[len(own) // 2]

    def erase(at: pd.Timestamp) -> None:
        erasure = log_pb2.RecordedEvents(erased=["w1"])
        erasure.received_at.FromDatetime(at.to_pydatetime())
        partition = str(partition_of("w1", PARTITIONS))
        append_messages(logged.nats, EVENTS, (partition, erasure.SerializeToString()))

    erase(middle)
    logged.made()
    ahead = pd.Timedelta(minutes=10)  # as far as an event's clock may be
    left = len(logged.of_viewer("w1"))
    assert left == int((own["timestamp"] > middle + ahead).sum()) > 0
    assert "w1" in set(load_dataset(logged.home, "live").viewers["viewer_id"])
    erase(own["timestamp"].iloc[0])
    logged.made("live")
    assert logged.of_viewer("w1").empty, "the base has nothing that came after the erasure"


@pytest.mark.parametrize(
    ("base", "gap"), [("live", "4 to 6"), ("small", "1 to 6")], ids=["positions", "no positions"]
)
def test_a_base_that_is_older_than_what_the_log_keeps_is_refused_with_the_gap(
    logged: LoggedData, base: str, gap: str
) -> None:
    """A job that begins with the same imported data each night has a base without positions."""
    logged.record([event(1, "w1", "v1")], [event(2, "w1", "v2")], [event(3, "w1", "v3")])
    first = logged.made()
    logged.record(*([event(number, "w1", "v4")] for number in range(4, 9)))
    purge_events(logged.nats, 7)
    with pytest.raises(VireoError, match=rf"doesn't keep messages {gap} .*--accept-gap"):
        logged.made(base, force=True)
    second = logged.made(base, force=True, accept_gap=True)
    kept = first.interactions if base == "live" else len(random_interactions())
    assert second.interactions == kept + 2
    logged.record([event(9, "w1", "v5")])
    assert logged.made("live").interactions == second.interactions + 1


def test_a_log_that_was_replaced_is_read_from_its_begin(logged: LoggedData) -> None:
    logged.record([event(1, "w1", "v1")])
    first = logged.made()
    logged.replace_log()
    logged.record(*([event(number, "w2", "v2")] for number in range(2, 7)))
    second = logged.made("live")
    assert second.interactions == first.interactions + 5
    logs = [
        {each.log for each in info.log_positions.partitions.values()} for info in (first, second)
    ]
    assert logs[0].isdisjoint(logs[1])


def test_seconds_are_a_fraction_of_a_video_whose_length_is_known(logged: LoggedData) -> None:
    lengths = {"known": {"duration": 60.0}, "unknown": {}, "empty": {"duration": 0.0}}
    logged.change(*(upserted(name, **more) for name, more in lengths.items()))
    plays = [
        event(1, "n", "known", watched_seconds=15.0),
        event(2, "n", "unknown", second=1, watched_seconds=15.0),
        event(3, "n", "known", second=2, watched_seconds=90.0),
        event(4, "n", "known", second=3, watched_seconds=15.0, watched_fraction=0.5),
        event(5, "n", "known", "LIKE", second=4, watched_seconds=15.0),
        event(6, "n", "empty", second=5, watched_seconds=15.0),
    ]
    logged.record(plays)
    logged.made()
    found = logged.of_viewer("n")["watched_fraction"]
    assert found.fillna(-1).tolist() == [0.25, -1, 1, 0.5, -1, -1]


def test_plays_that_ended_early_are_bounces_by_the_bases_rule(logged: LoggedData) -> None:
    plays = [
        event(1, "n", "v1", watched_seconds=2.0),  # of 60
        event(2, "n", "v2", second=1, watched_seconds=4.0),
        event(3, "n", "v3", "FINISH", second=2),
        event(4, "n", "v4", second=3),
    ]
    logged.record(plays)
    logged.made()
    assert logged.of_viewer("n")["event"].tolist() == ["bounce", "play", "play", "play"]
    assert logged.made(force=True, bounce=Bounce.parse("5s")).bounce
    assert logged.of_viewer("n")["event"].tolist() == ["bounce", "bounce", "play", "play"]
    logged.record([event(5, "n", "v5", second=4)])
    assert logged.made("live").bounce == Bounce(seconds=5)
    assert logged.of_viewer("n")["event"].tolist() == ["bounce"] * 2 + ["play"] * 3


def test_only_what_the_base_lacks_is_read_again_and_what_cant_be_read_left_out(
    logged: LoggedData,
) -> None:
    logged.change(upserted("new video"))
    append_messages(logged.nats, CATALOG, ("0" * 16, b"\xff"))
    logged.record([event(1, "w1", "v1"), event(2, "new viewer", "new video", "FINISH")])
    first = logged.made()
    assert first.interactions == len(random_interactions()) + 2
    assert first.problems["messages of the log that can't be read left out"] == 1
    logged.record([event(3, "new viewer", "v1", "NOT_INTERESTED"), event(4, "w1", "", "FOLLOW")])
    second = logged.made("live")
    assert second.interactions == first.interactions + 1
    assert second.problems["follows and events of unknown kinds left out"] == 1
    own = logged.of_viewer("new viewer")
    assert own["event"].tolist() == ["play", "hide"]
    assert own["watched_fraction"].tolist()[0] == 1
    data = load_dataset(logged.home, "live")
    profile = data.viewers.set_index("viewer_id")["attributes"]
    assert list(profile["w2"]) == ["plan=free", "group=2"]
    assert "new viewer" in profile
    titles = data.videos.set_index("video_id")["title"]
    assert (titles["new video"], titles["v1"]) == ("new video", "Video 1")


def test_the_features_go_on_from_the_position_of_the_data(logged: LoggedData) -> None:
    logged.record([event(1, "w1", "v1"), event(2, "w2", "v1")])
    positions = logged.made().log_positions.partitions
    assert list(positions) == [0, 1]
    build_features(logged.home, "live", holdout="none")
    stored = pd.read_parquet(logged.home.features("live") / "consumer_position.parquet")
    expected = {str(partition): str(position) for partition, position in positions.items()}
    assert dict(zip(stored["partition"], stored["position"], strict=True)) == expected


def test_a_data_set_is_replaced_only_by_force_and_needs_a_log(logged: LoggedData) -> None:
    with pytest.raises(VireoError, match="there is a data set small already"):
        logged.made(name="small", force=False)
    logged.change(upserted("a"), upserted("b"))
    with pytest.raises(VireoError, match="no viewer watched more than 0 videos"):
        logged.made(base=None)
    logged.nats.kill()
    with pytest.raises(LogAwayError):
        logged.made()
    assert not logged.home.data("live").exists()


def test_the_catalogues_changes_are_in_the_data(logged: LoggedData) -> None:
    details = catalog_pb2.Video(title="New", tags=["a", "b", "a"], creator="ana", duration=9.5)
    details.published.FromSeconds(1_700_000_000)
    added = upserted("n1")
    added.video.MergeFrom(details)
    logged.change(
        added,
        upserted("v1", title="Other"),
        upserted("n2", title="Gone"),
        *map(removed, ("n2", "v2", "v59")),
    )
    logged.record([event(1, "w1", "n1")])
    assert logged.made().log_positions.catalogue.sequence == 6
    videos = load_dataset(logged.home, "live").videos.set_index("video_id")
    row = videos.loc["n1"]
    assert (row["title"], list(row["tags"]), row["creator"]) == ("New", ["a", "b"], "ana")
    assert (row["duration"], row["published"].timestamp()) == (9.5, 1_700_000_000)
    assert videos["title"]["v1"] == "Other"
    assert videos["creator"]["v1"] is None
    # What was watched is learned from; what nobody watched goes.
    assert "v2" in videos.index
    assert not {"n2", "v59"} & set(videos.index)


def test_events_add_no_video_to_the_data(logged: LoggedData) -> None:
    base = load_dataset(logged.home, "small")
    logged.change(upserted("n1"), removed("unheard-of"))
    videos = ("v1", "nobody's", "n1", "unheard-of", "nobody's either", "nobody's")
    logged.record([event(each, "n", name, "LIKE", each) for each, name in enumerate(videos)])
    logged.record([event(9, "other", "nobody's", "LIKE", 9)])
    assert logged.made().problems["events of unknown videos left out"] == 5
    live = load_dataset(logged.home, "live")
    assert set(live.videos["video_id"]) == {*base.videos["video_id"], "n1"}
    assert logged.of_viewer("n")["video_id"].tolist() == ["v1", "n1"]
    # Nor a viewer without an interaction.
    assert set(live.viewers["viewer_id"]) == {*base.viewers["viewer_id"], "n"}


def test_takedowns_are_in_the_data_and_outlast_the_log(logged: LoggedData) -> None:
    def taken_down() -> tuple[set[int], float]:
        takedowns = Takedowns.read(logged.home.data("live") / TAKEDOWNS)
        return {*takedowns.keys.tolist()}, takedowns.as_of

    begun = time.time()
    logged.change(*map(removed, ("v1", "v2", "to come")), upserted("v2"), stream=REMOVED)
    logged.record([event(1, "w1", "v1")])
    logged.made()
    known, as_of = taken_down()
    assert known == {*map(video_key, ("v1", "to come"))}
    assert begun <= as_of <= time.time()
    logged.replace_log()
    logged.change(upserted("to come"), removed("v3"), stream=REMOVED)
    logged.record([event(2, "w1", "v1", second=1)])
    logged.made("live")
    assert taken_down()[0] == {*map(video_key, ("v1", "v3"))}


def test_attributes_of_the_catalogue_are_in_the_data(logged: LoggedData) -> None:
    first = catalog_pb2.VideoAttribute(name="language", labels=["de", "fr"])
    logged.change(upserted("n1", attributes=[first]))
    assert logged.made().attributes == {"language": "labels"}
    second = catalog_pb2.VideoAttribute(name="age_rating", number=16)
    logged.change(upserted("v1", attributes=[second]), upserted("n1"), upserted("n2"))
    logged.change(upserted("n2", attributes=[first]))
    assert logged.made("live").attributes == {"language": "labels", "age_rating": "number"}
    columns = ("video_id", "attribute.language", "attribute.age_rating")
    data = load_dataset(logged.home, "live")
    frame = data.video_columns(*columns).to_pandas().set_index("video_id")
    assert frame.notna().sum().tolist() == [1, 1]
    # An upsert replaces all that was known.
    assert list(frame["attribute.language"]["n2"]) == ["de", "fr"]
    assert frame["attribute.age_rating"]["v1"] == 16
