"""Data sets from a real log."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.builders.datasets import random_interactions, write_small_dataset
from tests.builders.event_batches import message
from tests.builders.nats import RunningNats, running_nats, settings_of
from vireo.server.errors import VireoError
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import CATALOG, EVENTS, REMOVED, LogAwayError, Stream, partition_of
from vireo.server.event_log.nats_connection import Connection
from vireo.server.event_log.position import Position
from vireo.server.features.activity import Bounce
from vireo.server.features.keys import video_key
from vireo.server.home import Home
from vireo.server.recommend.catalogue.takedowns import Takedowns
from vireo.server.releases.layout import TAKEDOWNS
from vireo.training.data.as_events import interaction_events
from vireo.training.data.dataset import DatasetInfo, LogPositions, load_dataset
from vireo.training.data.from_events import data_from_events
from vireo.training.features.build import build_features
from vireo.v1 import catalog_pb2, event_pb2, log_pb2

PARTITIONS = 2


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[RunningNats]:
    with running_nats(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def record(nats: RunningNats, *messages: list[event_pb2.Event]) -> None:
    """Append events, each to the partition of its viewer."""

    async def append() -> None:
        log = JetStreamLog(settings_of(nats))
        for events in messages:
            for partition in range(PARTITIONS):
                own = [e for e in events if partition_of(e.viewer_id, PARTITIONS) == partition]
                if own:
                    await log.append(EVENTS, str(partition), message(own))
        await log.close()

    asyncio.run(append())


def change(nats: RunningNats, *changes: log_pb2.CatalogChange, stream: Stream = CATALOG) -> None:
    async def append() -> None:
        log = JetStreamLog(settings_of(nats))
        for each in changes:
            key = f"{video_key(each.video.video_id) % (1 << 64):016x}"
            await log.append(stream, key, each.SerializeToString())
        await log.close()

    asyncio.run(append())


def upserted(video_id: str, **more: object) -> log_pb2.CatalogChange:
    return log_pb2.CatalogChange(video=catalog_pb2.Video(video_id=video_id, **more))  # type: ignore[arg-type]


def removed(video_id: str) -> log_pb2.CatalogChange:
    return log_pb2.CatalogChange(video=catalog_pb2.Video(video_id=video_id), removed=True)


def made(
    nats: RunningNats,
    home: Home,
    name: str,
    base: str | None = None,
    *,
    force: bool = False,
    accept_gap: bool = False,
    bounce: Bounce | None = None,
) -> DatasetInfo:
    log = JetStreamLog(settings_of(nats))
    return data_from_events(
        home, name, base, log, PARTITIONS, force=force, accept_gap=accept_gap, bounce=bounce
    )


def event(
    number: int, viewer: str, video: str, kind: str = "PLAY", second: int = 0
) -> event_pb2.Event:
    what = event_pb2.Event(
        event_id=f"e{number}",
        viewer_id=viewer,
        video_id=video,
        kind=event_pb2.EventKind.Value(f"EVENT_KIND_{kind}"),
    )
    what.time.FromSeconds(1_700_000_000 + second)
    return what


def test_a_data_set_sent_as_events_comes_back_with_the_same_features(
    nats: RunningNats, home: Home
) -> None:
    interactions = random_interactions()
    write_small_dataset(home, "small", interactions)
    events = list(interaction_events("small", interactions))
    # All twice, from the last to the first.
    record(nats, events[::-1], events)
    change(nats, *map(upserted, load_dataset(home, "small").videos["video_id"]))
    info = made(nats, home, "live", bounce=Bounce())
    assert info.problems["events sent again dropped"] == len(events)
    both = []
    for name in ("small", "live"):
        build_features(home, name, holdout="none")
        both.append(pd.read_parquet(home.features(name) / "viewer_activity.parquet"))
    one, other = (frame.groupby("viewer_id").tail(1).reset_index(drop=True) for frame in both)
    pd.testing.assert_frame_equal(one, other)
    one, other = (
        pd.read_parquet(home.features(name) / "viewer_hidden.parquet").sort_values("viewer_id")
        for name in ("small", "live")
    )
    pd.testing.assert_frame_equal(one.reset_index(drop=True), other.reset_index(drop=True))


def test_viewers_may_have_the_same_event_ids(nats: RunningNats, home: Home) -> None:
    write_small_dataset(home, "small", random_interactions())
    base = load_dataset(home, "small")
    record(nats, [event(1, viewer, "v1") for viewer in ("n1", "n2", "n1", "n2")])
    info = made(nats, home, "live", "small")
    assert info.interactions == len(base.interactions) + 2
    assert info.problems["events sent again dropped"] == 2


def test_an_event_that_is_sent_again_after_the_base_was_made_counts_once(
    nats: RunningNats, home: Home
) -> None:
    write_small_dataset(home, "small", random_interactions())
    record(nats, [event(1, "w1", "v1"), event(2, "w2", "v1", "LIKE")])
    first = made(nats, home, "live", "small")
    record(nats, [event(1, "w1", "v1"), event(2, "w2", "v1", "LIKE")])
    record(nats, [event(3, "w1", "v1", second=1), event(4, "w1", "v1", "LIKE")])
    second = made(nats, home, "live", "live", force=True)
    assert second.interactions == first.interactions + 2
    assert second.problems["events that the base has dropped"] == 2
    assert load_dataset(home, "live").interactions["row"].is_unique


def test_distinct_events_of_one_moment_are_none_that_the_base_has(
    nats: RunningNats, home: Home
) -> None:
    """A finish is a play whose fraction is known: the base has no event ids to tell them apart."""
    write_small_dataset(home, "small", random_interactions())
    record(nats, [event(1, "w1", "v1")])
    first = made(nats, home, "live", "small")
    again = event(1, "w1", "v1")
    again.watched_fraction = 0.3  # as it is now that the video has a duration, for example
    record(nats, [event(2, "w1", "v1", "FINISH"), again])
    second = made(nats, home, "live", "live", force=True)
    assert second.interactions == first.interactions + 1
    found = load_dataset(home, "live").interactions
    own = found[(found["viewer_id"] == "w1") & (found["video_id"] == "v1")]
    assert own.groupby("timestamp")["watched_fraction"].max().iloc[-1] == 1


def test_an_erasure_spares_what_the_base_has_of_later_though_the_log_is_read_from_its_begin(
    nats: RunningNats, home: Home
) -> None:
    interactions = random_interactions()
    write_small_dataset(home, "small", interactions)
    own = interactions[interactions["viewer_id"] == "w1"].sort_values("timestamp")
    middle = own["timestamp"].iloc[len(own) // 2]

    async def erase(at: pd.Timestamp) -> None:
        erasure = log_pb2.RecordedEvents(erased=["w1"])
        erasure.received_at.FromDatetime(at.to_pydatetime())
        log = JetStreamLog(settings_of(nats))
        partition = str(partition_of("w1", PARTITIONS))
        await log.append(EVENTS, partition, erasure.SerializeToString())
        await log.close()

    def left() -> int:
        found = load_dataset(home, "live").interactions
        return int((found["viewer_id"] == "w1").sum())

    asyncio.run(erase(middle))
    made(nats, home, "live", "small")
    ahead = pd.Timedelta(minutes=10)  # as far as an event's clock may be
    assert left() == int((own["timestamp"] > middle + ahead).sum()) > 0
    assert "w1" in set(load_dataset(home, "live").viewers["viewer_id"])
    asyncio.run(erase(own["timestamp"].iloc[0]))
    made(nats, home, "live", "live", force=True)
    assert left() == 0, "the base has nothing that came after the erasure"


def test_a_base_of_the_build_before_has_sequences_in_an_unknown_log(
    nats: RunningNats, home: Home
) -> None:
    """It alone may have what the log doesn't keep any more: it must stay a base."""
    write_small_dataset(home, "small", random_interactions())
    record(nats, [event(1, "w1", "v1")], [event(2, "w1", "v2")])
    first = made(nats, home, "live", "small")
    path = home.data("live") / "dataset.json"
    old = {"log_positions": {"events": {"0": 1, "1": 1}, "catalog": 0}}
    path.write_text(json.dumps(json.loads(path.read_bytes()) | old))
    record(nats, [event(3, "w1", "v3")])
    assert made(nats, home, "live", "live", force=True).interactions == first.interactions + 1
    path.write_text(json.dumps(json.loads(path.read_bytes()) | old))
    purge(nats, 3)
    with pytest.raises(VireoError, match="--accept-gap"):
        made(nats, home, "live", "live", force=True)
    last = made(nats, home, "live", "live", force=True, accept_gap=True)
    assert last.interactions == first.interactions + 1
    assert "events" not in json.loads(path.read_bytes())["log_positions"]


def test_seconds_are_a_fraction_of_a_video_whose_length_is_known(
    nats: RunningNats, home: Home
) -> None:
    write_small_dataset(home, "small", random_interactions())
    lengths = {"known": {"duration": 60.0}, "unknown": {}, "empty": {"duration": 0.0}}
    change(nats, *(upserted(name, **more) for name, more in lengths.items()))
    plays = [
        (event(1, "n", "known"), {"watched_seconds": 15.0}),
        (event(2, "n", "unknown", second=1), {"watched_seconds": 15.0}),
        (event(3, "n", "known", second=2), {"watched_seconds": 90.0}),
        (event(4, "n", "known", second=3), {"watched_seconds": 15.0, "watched_fraction": 0.5}),
        (event(5, "n", "known", "LIKE", second=4), {"watched_seconds": 15.0}),
        (event(6, "n", "empty", second=5), {"watched_seconds": 15.0}),
    ]
    for each, more in plays:
        each.MergeFrom(event_pb2.Event(**more))  # type: ignore[arg-type]
    record(nats, [each for each, _ in plays])
    made(nats, home, "live", "small")
    found = load_dataset(home, "live").interactions
    own = found[found["viewer_id"] == "n"].sort_values("timestamp")
    assert own["watched_fraction"].fillna(-1).tolist() == [0.25, -1, 1, 0.5, -1, -1]


def test_plays_that_ended_early_are_bounces_by_the_bases_rule(
    nats: RunningNats, home: Home
) -> None:
    write_small_dataset(home, "small", random_interactions())
    plays = [
        (event(1, "n", "v1"), {"watched_seconds": 2.0}),  # of 60
        (event(2, "n", "v2", second=1), {"watched_seconds": 4.0}),
        (event(3, "n", "v3", "FINISH", second=2), {}),
        (event(4, "n", "v4", second=3), {}),
    ]
    for each, more in plays:
        each.MergeFrom(event_pb2.Event(**more))  # type: ignore[arg-type]
    record(nats, [each for each, _ in plays])
    made(nats, home, "live", "small")

    def kinds() -> list[str]:
        found = load_dataset(home, "live").interactions
        return found[found["viewer_id"] == "n"].sort_values("timestamp")["event"].tolist()

    assert kinds() == ["bounce", "play", "play", "play"]
    assert made(nats, home, "live", "small", force=True, bounce=Bounce.parse("5s")).bounce
    assert kinds() == ["bounce", "bounce", "play", "play"]
    record(nats, [event(5, "n", "v5", second=4)])
    again = made(nats, home, "live", "live", force=True)
    assert again.bounce == Bounce(seconds=5)
    assert kinds() == ["bounce", "bounce", "play", "play", "play"]


def test_changes_that_cannot_be_read_are_left_out(nats: RunningNats, home: Home) -> None:
    write_small_dataset(home, "small", random_interactions())

    async def append() -> None:
        log = JetStreamLog(settings_of(nats))
        await log.append(CATALOG, "0" * 16, b"\xff")
        await log.close()

    asyncio.run(append())
    record(nats, [event(1, "w1", "v1")])
    info = made(nats, home, "live", "small")
    assert info.problems["messages of the log that can't be read left out"] == 1


def test_only_what_the_base_lacks_is_read_again(nats: RunningNats, home: Home) -> None:
    write_small_dataset(home, "small", random_interactions())
    base = load_dataset(home, "small")
    change(nats, upserted("new video"))
    record(nats, [event(1, "w1", "v1"), event(2, "new viewer", "new video", "FINISH")])
    first = made(nats, home, "live", "small")
    assert first.interactions == len(base.interactions) + 2
    assert list(first.log_positions.partitions) == [0, 1]
    record(nats, [event(3, "new viewer", "v1", "NOT_INTERESTED"), event(4, "w1", "", "FOLLOW")])
    second = made(nats, home, "live", "live", force=True)
    assert second.interactions == first.interactions + 1
    assert second.problems["follows and events of unknown kinds left out"] == 1
    data = load_dataset(home, "live")
    own = data.interactions[data.interactions["viewer_id"] == "new viewer"]
    assert own["event"].tolist() == ["play", "hide"]
    assert own["watched_fraction"].tolist()[0] == 1
    assert "new viewer" in set(data.viewers["viewer_id"])
    profile = data.viewers.set_index("viewer_id")["attributes"]
    assert list(profile["w2"]) == ["plan=free", "group=2"]
    videos = data.videos.set_index("video_id")
    assert videos["title"]["new video"] == "new video"
    assert videos["title"]["v1"] == "Video 1"


def test_the_features_go_on_from_the_position_of_the_data(nats: RunningNats, home: Home) -> None:
    write_small_dataset(home, "small", random_interactions())
    record(nats, [event(1, "w1", "v1"), event(2, "w2", "v1")])
    positions = made(nats, home, "live", "small").log_positions.partitions
    build_features(home, "live", holdout="none")
    stored = pd.read_parquet(home.features("live") / "consumer_position.parquet")
    expected = {str(partition): str(position) for partition, position in positions.items()}
    assert dict(zip(stored["partition"], stored["position"], strict=True)) == expected


def test_the_catalogues_changes_are_in_the_data(nats: RunningNats, home: Home) -> None:
    write_small_dataset(home, "small", random_interactions())
    published = catalog_pb2.Video(video_id="x").published
    published.FromSeconds(1_700_000_000)
    change(
        nats,
        upserted(
            "n1",
            title="New",
            tags=["a", "b", "a"],
            creator="ana",
            published=published,
            duration=9.5,
        ),
        upserted("v1", title="Other"),
        upserted("n2", title="Gone"),
        log_pb2.CatalogChange(video=catalog_pb2.Video(video_id="n2"), removed=True),
        log_pb2.CatalogChange(video=catalog_pb2.Video(video_id="v2"), removed=True),
        log_pb2.CatalogChange(video=catalog_pb2.Video(video_id="v59"), removed=True),
    )
    record(nats, [event(1, "w1", "n1")])
    info = made(nats, home, "live", "small")
    assert info.log_positions.catalogue.sequence == 6
    videos = load_dataset(home, "live").videos.set_index("video_id")
    row = videos.loc["n1"]
    assert (row["title"], list(row["tags"]), row["creator"]) == ("New", ["a", "b"], "ana")
    assert (row["duration"], row["published"].timestamp()) == (9.5, 1_700_000_000)
    assert videos["title"]["v1"] == "Other"
    assert videos["creator"]["v1"] is None
    # What was watched is learned from; what nobody watched goes.
    assert "v2" in videos.index
    assert not {"n2", "v59"} & set(videos.index)


def test_events_add_no_video_to_the_data(nats: RunningNats, home: Home) -> None:
    write_small_dataset(home, "small", random_interactions())
    base = load_dataset(home, "small")
    change(nats, upserted("n1"), removed("unheard-of"))
    videos = ("v1", "nobody's", "n1", "unheard-of", "nobody's either", "nobody's")
    record(nats, [event(each, "n", name, "LIKE", each) for each, name in enumerate(videos)])
    record(nats, [event(9, "other", "nobody's", "LIKE", 9)])
    info = made(nats, home, "live", "small")
    assert info.problems["events of unknown videos left out"] == 5
    live = load_dataset(home, "live")
    assert set(live.videos["video_id"]) == {*base.videos["video_id"], "n1"}
    own = live.interactions[live.interactions["viewer_id"] == "n"].sort_values("timestamp")
    assert own["video_id"].tolist() == ["v1", "n1"]
    # Nor a viewer without an interaction.
    assert set(live.viewers["viewer_id"]) == {*base.viewers["viewer_id"], "n"}


def test_takedowns_are_in_the_data_and_outlast_the_log(nats: RunningNats, home: Home) -> None:
    write_small_dataset(home, "small", random_interactions())

    def taken_down(name: str) -> tuple[set[int], float]:
        takedowns = Takedowns.read(home.data(name) / TAKEDOWNS)
        return {*takedowns.keys.tolist()}, takedowns.as_of

    def keys(*names: str) -> set[int]:
        return {*map(video_key, names)}

    begun = time.time()
    change(nats, removed("v1"), removed("v2"), removed("to come"), stream=REMOVED)
    change(nats, upserted("v2"), stream=REMOVED)
    record(nats, [event(1, "w1", "v1")])
    made(nats, home, "live", "small")
    known, as_of = taken_down("live")
    assert known == keys("v1", "to come")
    assert begun <= as_of <= time.time()

    nats.kill()
    nats.forget()
    nats.start()
    change(nats, upserted("to come"), removed("v3"), stream=REMOVED)
    change(nats, removed("v4"))  # as a gateway of an earlier build does
    record(nats, [event(2, "w1", "v1", second=1)])
    made(nats, home, "live", "live", force=True)
    assert taken_down("live")[0] == keys("v1", "v3", "v4")


def test_attributes_of_the_catalogue_are_in_the_data(nats: RunningNats, home: Home) -> None:
    write_small_dataset(home, "small", random_interactions())
    first = catalog_pb2.VideoAttribute(name="language", labels=["de", "fr"])
    change(nats, upserted("n1", attributes=[first]))
    assert made(nats, home, "live", "small").attributes == {"language": "labels"}
    second = catalog_pb2.VideoAttribute(name="age_rating", number=16)
    change(nats, upserted("v1", attributes=[second]), upserted("n1"), upserted("n2"))
    change(nats, upserted("n2", attributes=[first]))
    info = made(nats, home, "live", "live", force=True)
    assert info.attributes == {"language": "labels", "age_rating": "number"}
    columns = ("video_id", "attribute.language", "attribute.age_rating")
    frame = load_dataset(home, "live").video_columns(*columns).to_pandas().set_index("video_id")
    assert frame.notna().sum().tolist() == [1, 1]
    # An upsert replaces all that was known.
    assert list(frame["attribute.language"]["n2"]) == ["de", "fr"]
    assert frame["attribute.age_rating"]["v1"] == 16


def test_a_base_of_an_earlier_build_may_lack_creators(nats: RunningNats, home: Home) -> None:
    write_small_dataset(home, "small", random_interactions())
    path = home.data("small") / "videos.parquet"
    pd.read_parquet(path).drop(columns="creator").to_parquet(path)
    change(nats, upserted("n1", creator="ana"))
    made(nats, home, "live", "small")
    videos = load_dataset(home, "live").videos.set_index("video_id")
    assert videos["creator"].dropna().to_dict() == {"n1": "ana"}


def test_viewers_who_number_their_events_themselves_lose_none(
    nats: RunningNats, home: Home
) -> None:
    viewers, each = 7, 299
    for viewer in range(viewers):
        some = []
        for number in range(each):
            made_up = event(number, f"viewer {viewer}", f"v{number % 50}", "IMPRESSION")
            made_up.event_id = str(number)
            some.append(made_up)
        record(nats, some)
    write_small_dataset(home, "small", random_interactions())
    info = made(nats, home, "live", "small")
    before = load_dataset(home, "small").interactions["event"].eq("impression").sum()
    assert info.events["impression"] == before + viewers * each
    assert "events sent again dropped" not in info.problems


def test_a_log_that_was_replaced_is_read_from_its_begin(nats: RunningNats, home: Home) -> None:
    write_small_dataset(home, "small", random_interactions())
    record(nats, [event(1, "w1", "v1")])
    first = made(nats, home, "live", "small")
    nats.kill()
    nats.forget()
    nats.start()
    record(nats, *([event(number, "w2", "v2")] for number in range(2, 7)))
    second = made(nats, home, "live", "live", force=True)
    assert second.interactions == first.interactions + 5
    assert {each.log for each in second.log_positions.partitions.values()}.isdisjoint(
        each.log for each in first.log_positions.partitions.values()
    )


def test_a_base_that_is_older_than_what_the_log_keeps_is_refused_with_the_gap(
    nats: RunningNats, home: Home
) -> None:
    write_small_dataset(home, "small", random_interactions())
    record(nats, [event(1, "w1", "v1")], [event(2, "w1", "v2")], [event(3, "w1", "v3")])
    first = made(nats, home, "live", "small")
    record(nats, *([event(number, "w1", "v4")] for number in range(4, 9)))
    purge(nats, 7)
    with pytest.raises(VireoError, match=r"doesn't keep messages 4 to 6 .*--accept-gap"):
        made(nats, home, "live", "live", force=True)
    second = made(nats, home, "live", "live", force=True, accept_gap=True)
    assert second.interactions == first.interactions + 2
    record(nats, [event(9, "w1", "v5")])
    assert made(nats, home, "live", "live", force=True).interactions == second.interactions + 1


def test_a_base_without_a_position_needs_all_of_the_log(nats: RunningNats, home: Home) -> None:
    """As that of a job which begins with the same imported data each night."""
    write_small_dataset(home, "small", random_interactions())
    record(nats, [event(1, "w1", "v1")], [event(2, "w1", "v2")], [event(3, "w1", "v3")])
    purge(nats, 3)
    with pytest.raises(VireoError, match=r"doesn't keep messages 1 to 2 .*--accept-gap"):
        made(nats, home, "live", "small")
    one = made(nats, home, "live", "small", accept_gap=True)
    record(nats, *([event(number, "w1", "v4")] for number in range(4, 9)))
    assert made(nats, home, "live", "live", force=True).interactions == one.interactions + 5


def purge(nats: RunningNats, first: int) -> None:
    """Have the log keep what begins with a sequence, as retention does."""

    async def ask() -> None:
        connection = await Connection.open(settings_of(nats))
        asked = json.dumps({"seq": first}).encode()
        await connection.ask("$JS.API.STREAM.PURGE.vireo_events", asked)
        await connection.close()

    asyncio.run(ask())


def test_a_data_set_is_replaced_only_by_force_and_needs_a_log(
    nats: RunningNats, home: Home
) -> None:
    write_small_dataset(home, "small", random_interactions())
    with pytest.raises(VireoError, match="there is a data set small already"):
        made(nats, home, "small", "small")
    change(nats, upserted("a"), upserted("b"))
    with pytest.raises(VireoError, match="no viewer watched more than 0 videos"):
        made(nats, home, "live")
    nats.kill()
    with pytest.raises(LogAwayError):
        made(nats, home, "live", "small")
    assert not home.data("live").exists()


def test_positions_are_kept_by_the_description() -> None:
    positions = LogPositions(
        partitions={0: Position(5, "log", 1), 1: Position(7)}, catalogue=Position(3, "log", 2)
    )
    assert LogPositions.model_validate_json(positions.model_dump_json()) == positions
