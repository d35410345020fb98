"""Changes of the catalogue in data sets that are made of a log."""

from __future__ import annotations

import time

from tests.builders.logged_data import LoggedData, event, removed, upserted
from vireo.server.event_log.log import REMOVED
from vireo.server.features.keys import video_key
from vireo.server.recommend.catalogue.takedowns import Takedowns
from vireo.server.releases.layout import TAKEDOWNS
from vireo.training.data.dataset import load_dataset
from vireo.v1 import catalog_pb2


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
    logged.change(removed("v4"))  # as a gateway of an earlier build does
    logged.record([event(2, "w1", "v1", second=1)])
    logged.made("live")
    assert taken_down()[0] == {*map(video_key, ("v1", "v3", "v4"))}


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
