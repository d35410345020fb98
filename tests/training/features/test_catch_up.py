"""Features that are built again, against a real log and real online stores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pytest
import structlog

from tests.builders.datasets import random_interactions, write_small_dataset
from tests.builders.event_batches import HIDE, LIKED_BY_FRACTION, PLAY, event, message
from tests.builders.logged_data import append_messages, purge_events
from tests.builders.nats import TOKEN, RunningNats, running_nats, settings_of, with_log
from tests.builders.reading import take
from tests.builders.shared_servers import redis, redis_server, store
from vireo.ops.stack.nats import log_environment
from vireo.server.consumer.apply import folded
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import DEAD, EVENTS, Entry
from vireo.server.features.keys import video_key
from vireo.server.features.online_store import open_rows, read_viewer
from vireo.server.home import Home
from vireo.training.data.from_events import data_from_events
from vireo.training.features.build import build_features
from vireo.training.features.online_store import OnlineStoreSettings
from vireo.training.features.watches import load_watches
from vireo.v1 import event_pb2, log_pb2
from vireo.v1.viewer_pb2 import ViewerFeatures

__all__ = ["redis", "redis_server", "store"]


@pytest.fixture
def nats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningNats]:
    """A log that the settings name."""
    with running_nats(tmp_path / "nats") as server:
        for name, value in log_environment(settings_of(server)).items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with data set "small", without features."""
    home = Home(tmp_path)
    write_small_dataset(home, "small", random_interactions())
    return home


def append(nats: RunningNats, *batches: Sequence[event_pb2.Event]) -> int:
    return append_messages(nats, EVENTS, *(("0", message(events)) for events in batches))


def test_features_have_the_events_of_the_log_before_they_are_served(
    nats: RunningNats, store: OnlineStoreSettings, home: Home
) -> None:
    bad = event("w1", "v9", PLAY)
    bad.ClearField("time")
    last = append(
        nats, [event("w0", "v57", PLAY), bad], [event("w0", "v58", HIDE), event("n", "v1", HIDE)]
    )
    build_features(home, "small", "none", settings=store)
    repo = home.features("small")
    viewer = read_viewer(repo, "w0")
    assert viewer.watched_keys[-1] == video_key("v57")
    assert video_key("v58") in viewer.hidden_keys
    assert read_viewer(repo, "n").hidden_keys == [video_key("v1")]
    rows = open_rows(repo, 5)
    assert rows.position(0).sequence == last, "the consumer goes on from there"
    rows.close()
    [dead] = with_log(nats, lambda log: take(log, DEAD, "0"))
    letter = log_pb2.DeadEvents.FromString(dead.data)
    assert list(log_pb2.RecordedEvents.FromString(letter.recorded).events) == [bad]
    # Nothing is measured on what came later.
    build_features(home, "small", "last", settings=store)
    assert video_key("v57") not in read_viewer(repo, "w0").watched_keys


@pytest.mark.parametrize("known", [False, True])
def test_what_the_log_keeps_no_longer_is_left_to_the_consumer_to_count(
    nats: RunningNats, home: Home, known: bool
) -> None:
    append(nats, [event("w0", "v50", PLAY)])
    if known:
        log = JetStreamLog(settings_of(nats))
        data_from_events(home, "small", "small", log, 1, force=True)
    last = append(nats, [event("w0", "v58", PLAY)], [event("w0", "v57", PLAY)])

    purge_events(nats, 3)
    with structlog.testing.capture_logs() as logs:
        build_features(home, "small", "none")
    gap = next(each for each in logs if each["event"] == "events_missed")
    assert (gap["first"], gap["last"]) == ((2, 2) if known else (1, 2))
    rows = open_rows(home.features("small"), 5)
    # From the begin the consumer would count nothing as missed.
    assert rows.position(0).sequence == (1 if known else last)
    rows.close()


def test_what_was_hidden_or_followed_stays_so_when_the_log_has_forgotten_it(
    store: OnlineStoreSettings, home: Home
) -> None:
    build_features(home, "small", "none", settings=store)
    rows = open_rows(home.features("small"), 5)
    hides = [event("w0", "v58", HIDE), event("n", "v1", HIDE)]
    hides.append(event("fan", "", event_pb2.EVENT_KIND_FOLLOW, creator="c"))
    before = {viewer: read_viewer(rows.repo, viewer) for viewer in ("w0", "w1")}
    rows.write(folded(rows, [Entry(1, "0", message(hides))], LIKED_BY_FRACTION).changes)
    rows.close()
    build_features(home, "small", "none", settings=store)
    repo = home.features("small")
    assert read_viewer(repo, "w0").hidden_keys[-1] == video_key("v58")
    assert read_viewer(repo, "n").hidden_keys == [video_key("v1")]
    assert read_viewer(repo, "fan").followed_keys == [video_key("c")]
    again = {viewer: read_viewer(repo, viewer) for viewer in before}
    assert again["w1"] == before["w1"]
    assert again["w0"].watched_keys == before["w0"].watched_keys
    assert set(again["w0"].hidden_keys) == {*before["w0"].hidden_keys, video_key("v58")}


@pytest.mark.parametrize("terms", ["", "those of an example"])
def test_who_was_not_seen_for_long_is_left_out_of_the_store(
    store: OnlineStoreSettings, tmp_path: Path, terms: str
) -> None:
    interactions = random_interactions()
    old = interactions["viewer_id"].isin(["w1", "w2"])
    interactions.loc[old, "timestamp"] -= pd.Timedelta(days=400)
    home = Home(tmp_path)
    interactions = interactions.sort_values(["timestamp", "row"], ignore_index=True)
    write_small_dataset(home, "small", interactions, terms)
    build_features(home, "small", "none", settings=store)
    rows = open_rows(home.features("small"), 5)
    events = [event(viewer, "v58", HIDE) for viewer in ("w2", "w1", "w3", "n", "lately")]
    for each in events[1:]:
        each.time.seconds -= 400 * 86_400
    events.append(event("lately", "v57", PLAY))
    rows.write(folded(rows, [Entry(1, "0", message(events))], LIKED_BY_FRACTION).changes)
    rows.close()
    build_features(home, "small", "none", settings=store)
    kept = {viewer: read_viewer(home.features("small"), viewer) for viewer in ("w1", "w2", "w3")}
    assert read_viewer(home.features("small"), "n") == ViewerFeatures()
    assert read_viewer(home.features("small"), "lately").hidden_keys == [video_key("v58")]
    assert video_key("v58") in kept["w2"].hidden_keys
    assert video_key("v58") in kept["w3"].hidden_keys
    assert kept["w3"].watched_keys
    assert kept["w3"].attributes
    if terms:
        assert kept["w1"].watched_keys
    else:
        assert kept["w1"] == ViewerFeatures()
        assert kept["w2"] == ViewerFeatures(
            hidden_keys=kept["w2"].hidden_keys, hidden_times=kept["w2"].hidden_times
        )
    # What is learned from and measured is all the same.
    assert set(load_watches(home, "small")["viewer_id"]) >= {"w1", "w2"}


def test_the_log_of_the_homes_stack_is_found(home: Home, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with running_nats(tmp_path / "nats") as nats:
        (tmp_path / "log" / "token").write_text(TOKEN)
        (tmp_path / "log" / "port").write_text(str(nats.port))
        append(nats, [event("w0", "v57", PLAY)])
        build_features(home, "small", "none")
    assert read_viewer(home.features("small"), "w0").watched_keys[-1] == video_key("v57")


def test_a_log_that_is_away_stops_no_build(nats: RunningNats, home: Home) -> None:
    nats.kill()
    build_features(home, "small", "none")
    assert read_viewer(home.features("small"), "w0").watched_keys
