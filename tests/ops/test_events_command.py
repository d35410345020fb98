"""`vireo events` with a real log."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import structlog
from typer.testing import Result

from tests.builders.commands import reaching
from tests.builders.commands import vireo as run
from tests.builders.nats import RunningNats, settings_of, with_log
from tests.builders.reading import take
from tests.builders.recording import play
from tests.builders.tiny_home import DATASET, VIEWER, WATCHED, build_tiny_features
from vireo.ops.stack.nats import log_environment
from vireo.server.errors import VireoError
from vireo.server.event_log.jetstream import JetStreamLog, opened_log
from vireo.server.event_log.log import DEAD, EVENTS
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.home import Home
from vireo.v1 import event_pb2
from vireo.v1.log_pb2 import DeadEvents, RecordedEvents

pytestmark = pytest.mark.usefixtures("logs_of_a_command")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    build_tiny_features(home)
    return home


@pytest.fixture
def vireo(home: Home, nats: RunningNats) -> Callable[..., Result]:
    return partial(run, "events", VIREO_HOME=str(home.root), **reaching(nats))


async def set_aside(letter: DeadEvents, log: JetStreamLog) -> None:
    await log.append(DEAD, "0", letter.SerializeToString())


async def record(data: bytes, log: JetStreamLog) -> None:
    await log.append(EVENTS, "0", data)


def stored(nats: RunningNats, after: int) -> list[event_pb2.Event]:
    entries = with_log(nats, lambda log: take(log, EVENTS, after=after))
    return [event for each in entries for event in RecordedEvents.FromString(each.data).events]


def test_a_data_sets_interactions_are_replayed_at_their_own_times_and_once(
    vireo: Callable[..., Result], nats: RunningNats
) -> None:
    end = with_log(nats, lambda log: log.end(EVENTS))
    for _ in range(2):
        done = vireo("replay", "--data", DATASET, "--rate", "1000")
        assert done.exit_code == 0, done.output
        assert "recorded 3 events" in done.output
    found = stored(nats, end)
    assert [(each.viewer_id, each.video_id) for each in found] == [
        (VIEWER, video) for video in WATCHED
    ]
    start = datetime(2024, 1, 1, tzinfo=UTC)
    assert [each.time.ToDatetime(UTC) for each in found] == [
        start + timedelta(hours=hour) for hour in range(3)
    ]


def test_tail_prints_what_is_recorded(vireo: Callable[..., Result], nats: RunningNats) -> None:
    sent = RecordedEvents(
        events=[
            play("t1", "[bold]tail", "a video", watched_fraction=0.5, position=3, locale="de"),
            event_pb2.Event(
                event_id="t2", viewer_id="other", kind=event_pb2.EVENT_KIND_FOLLOW, creator="c"
            ),
        ]
    )
    with_log(nats, lambda log: log.append(EVENTS, "0", sent.SerializeToString()))
    shown = vireo("tail", "--begin", "--no-follow", "[bold]tail")
    assert shown.exit_code == 0, shown.output
    assert "play            [bold]tail  a video  50%  at 3  de" in shown.output
    lines = vireo("tail", "--begin", "--no-follow", "--json").output.splitlines()
    assert json.loads(lines[-1]) == {
        "eventId": "t2",
        "viewerId": "other",
        "kind": "EVENT_KIND_FOLLOW",
        "creator": "c",
    }


def test_dead_events_are_listed_and_replayed(
    vireo: Callable[..., Result], nats: RunningNats
) -> None:
    assert vireo("list-dead", "--json").output.strip() == "[]"
    whole = RecordedEvents(events=[play("d1"), play("d2")]).SerializeToString()
    # Of another viewer, whose ids are its own; and one that was set aside twice.
    again = RecordedEvents(events=[play("d1", "other"), play("d2")]).SerializeToString()
    letters = [
        DeadEvents(recorded=whole, reason="a reason", position=7),
        DeadEvents(recorded=b"\xff", reason="no message", position=8),
        DeadEvents(recorded=again, reason="again", position=9),
    ]
    for letter in letters:
        with_log(nats, partial(set_aside, letter))
    assert "a reason" in vireo("list-dead").output
    shown = json.loads(vireo("list-dead", "--json").output)
    assert [(each["position"], each["reason"]) for each in shown] == [
        (7, "a reason"),
        (8, "no message"),
        (9, "again"),
    ]
    assert [len(each["events"] or []) for each in shown] == [2, 0, 2]
    end = with_log(nats, lambda log: log.end(EVENTS))
    done = vireo("replay-dead")
    assert "recorded 3 events" in done.output
    assert [(each.viewer_id, each.event_id) for each in stored(nats, end)] == [
        ("viewer", "d1"),
        ("viewer", "d2"),
        ("other", "d1"),
    ]


def test_what_was_replayed_is_not_replayed_again(
    vireo: Callable[..., Result], nats: RunningNats
) -> None:
    vireo("replay-dead")
    assert "recorded 0 events" in vireo("replay-dead").output
    assert "vireo events replay" not in vireo("list-dead").output
    recorded = RecordedEvents(events=[play("later")]).SerializeToString()
    with_log(nats, partial(set_aside, DeadEvents(recorded=recorded, reason="a reason")))
    assert [each["replayed"] for each in json.loads(vireo("list-dead", "--json").output)][
        -1
    ] is False
    assert "vireo events replay" in vireo("list-dead").output
    assert "recorded 1 events" in vireo("replay-dead").output
    assert all(each["replayed"] for each in json.loads(vireo("list-dead", "--json").output))


def test_what_a_log_that_was_replaced_since_has_set_aside_is_replayed(
    vireo: Callable[..., Result], nats: RunningNats
) -> None:
    vireo("replay-dead")
    before = len(json.loads(vireo("list-dead", "--json").output))

    async def replace(log: JetStreamLog) -> None:
        await log.end(DEAD)
        assert log._connection is not None
        await log._connection.ask("$JS.API.STREAM.DELETE.vireo_dead")
        for number in range(before + 2):
            recorded = RecordedEvents(events=[play(f"n{number}")]).SerializeToString()
            await set_aside(DeadEvents(recorded=recorded, reason="a reason"), log)

    with_log(nats, replace)
    structlog.reset_defaults()  # each command has its own standard error
    replayed = vireo("replay-dead")
    assert f"recorded {before + 2} events" in replayed.output
    assert "the log lost messages, or is another one" in replayed.stderr
    assert "recorded 0 events" in vireo("replay-dead").output


def test_tail_shows_no_character_that_a_terminal_obeys_and_skips_what_it_cannot_read(
    vireo: Callable[..., Result], nats: RunningNats
) -> None:
    sent = RecordedEvents(events=[play("x", "\x1b]0;title\x07", "\x9b2Jé")]).SerializeToString()
    for data in (b"\xff", sent):
        with_log(nats, partial(record, data))
    shown = vireo("tail", "--begin", "--no-follow")
    assert shown.exit_code == 0, shown.output
    assert "\ufffd]0;title\ufffd  \ufffd2Jé" in shown.output
    assert "can't be read: left out" in shown.output
    [line] = [
        each
        for each in vireo("tail", "--begin", "--no-follow", "--json").stdout.splitlines()
        if "title" in each
    ]
    assert line.isprintable()
    assert json.loads(line)["videoId"] == "\x9b2Jé"


def test_replay_asks_what_to_replay(vireo: Callable[..., Result]) -> None:
    assert vireo("replay").exit_code == 2


def test_without_a_log_the_message_says_how_to_have_one(tmp_path: Path) -> None:
    for url, said in (("", "vireo up"), ("nats://127.0.0.1:1", "is the stack up?")):
        failed = run("events", "list-dead", VIREO_HOME=str(tmp_path), VIREO_NATS_URL=url)
        assert said in str(failed.exception)


def test_limits_show_how_full_streams_are_and_apply_what_would_delete_messages_by_hand(
    vireo: Callable[..., Result], nats: RunningNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_log(nats, partial(record, b"x" * 100_000))
    for name, value in log_environment(settings_of(nats, event_max_bytes=1 << 20)).items():
        monkeypatch.setenv(name, value)

    def stream() -> str:
        return vireo("limits").output.splitlines()[0]

    assert "bytes of 21,474,836,480; kept for 30 days by 1 server" in stream(), "as they are"
    asyncio.run(consumers_start())
    assert "bytes of 1,048,576; kept for 30 days" in stream(), "a consumer sets them"
    monkeypatch.setenv("VIREO_EVENT_RETENTION", "1")
    time.sleep(1.1)  # The message must be older than that.
    with pytest.raises(VireoError, match="vireo events limits --apply"):
        asyncio.run(consumers_start())
    done = vireo("limits", "--apply", "--yes")
    assert "kept for 1 s by 1 server\n" in done.output


async def consumers_start() -> None:
    """Connect as a consumer does, and part."""
    async with opened_log(EventLogSettings.load(), limits="set") as log:
        await log.end(EVENTS)
