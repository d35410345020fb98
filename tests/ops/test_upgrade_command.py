"""`vireo upgrade check` on a home, a real S3 server and a real log."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from typer.testing import Result

from tests.builders.commands import reaching
from tests.builders.commands import vireo as run
from tests.builders.nats import RunningNats, with_log
from tests.builders.s3 import running_s3
from tests.builders.tiny_home import VIEWER, build_tiny_home
from vireo.server.event_log.log import EVENTS
from vireo.server.home import Home
from vireo.server.releases.channels import ChannelPointer
from vireo.server.releases.store import ReleaseStore
from vireo.v1 import event_pb2, log_pb2

pytestmark = pytest.mark.usefixtures("logs_of_a_command")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReleaseStore]:
    with running_s3(tmp_path_factory.mktemp("s3")) as settings:
        yield ReleaseStore(settings)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return build_tiny_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def vireo(home: Home, nats: RunningNats, store: ReleaseStore) -> Callable[..., Result]:
    environment = {"VIREO_HOME": str(home.root), **reaching(nats), **store.settings.environment()}
    return partial(run, "upgrade", "check", **environment)


def put(store: ReleaseStore, name: str, body: bytes) -> None:
    store.bucket.make()
    found = store.bucket.get(name)
    assert store.bucket.swap(name, body, found[1] if found else None)


def record_last(nats: RunningNats, recorded: log_pb2.RecordedEvents) -> None:
    with_log(nats, lambda log: log.append(EVENTS, "0", recorded.SerializeToString()))


def test_what_every_part_holds_is_read(
    vireo: Callable[..., Result], home: Home, store: ReleaseStore, nats: RunningNats
) -> None:
    store.publish(home.staged_release("tiny"))
    pointer = ChannelPointer(
        release_id="tiny-1", updated_at=datetime(2026, 1, 1, tzinfo=UTC), updated_by="somebody"
    )
    put(store, "channels/production.json", pointer.model_dump_json().encode())
    event = event_pb2.Event(
        event_id="e", viewer_id=VIEWER, kind=event_pb2.EVENT_KIND_LIKE, video_id="video-3"
    )
    recorded = log_pb2.RecordedEvents(events=[event])
    recorded.received_at.FromDatetime(pointer.updated_at)
    record_last(nats, recorded)
    done = vireo("--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["away"] == {}
    assert {(each["part"], each["format"]) for each in document["held"]} == {
        *(("S3", name) for name in ("channel", "release manifest")),
        ("log", "event messages"),
        ("online store", "event rules"),
        ("online store", "online store"),
        *(("home", name) for name in ("data set", "features", "release manifest")),
    }
    shown = vireo()
    assert shown.exit_code == 0
    assert "reads all of it" in shown.output


def test_what_another_build_wrote_is_named_with_why_it_is_not_read_and_what_happens(
    vireo: Callable[..., Result], home: Home, store: ReleaseStore, nats: RunningNats
) -> None:
    manifest = json.loads((home.staged_release("tiny") / "manifest.json").read_bytes())
    newer = json.dumps(manifest | {"release_id": "newer-1", "format_version": 99}).encode()
    put(store, "releases/newer-1/manifest.json", newer)
    record = {"release_id": "newer-1", "updated_at": "2026-01-01T00:00:00Z", "updated_by": "x"}
    put(store, "channels/next.json", json.dumps(record).encode())
    put(store, "channels/bad.json", b"{}")
    event = event_pb2.Event(event_id="e", viewer_id="v", kind=99, video_id="v")  # type: ignore[arg-type]
    record_last(nats, log_pb2.RecordedEvents(events=[event]))
    (home.stack / "stack.json").parent.mkdir(parents=True, exist_ok=True)
    dataset = home.data("tiny") / "dataset.json"
    dataset.write_text(json.dumps(json.loads(dataset.read_bytes()) | {"colour": "x"}))
    done = vireo()
    assert done.exit_code == 1, done.output
    for line in (
        "releases/newer-1/manifest.json: can't read this release manifest: ",
        "train again with this build",
        "channels/bad.json: can't read this channel: ",
        "events.0: can't read this event messages: ",
        "vireo events replay-dead",
        "data/tiny/dataset.json: can't read this data set: ",
        "import the data set again with --replace",
    ):
        assert line in done.output


def test_a_part_that_is_away_is_another_exit_code(home: Home, vireo: Callable[..., Result]) -> None:
    nowhere = {
        "VIREO_HOME": str(home.root / "empty"),
        "VIREO_S3_ENDPOINT": "127.0.0.1:1",
        "VIREO_NATS_URL": "nats://127.0.0.1:1",
    }
    done = vireo("--json", **nowhere)
    assert done.exit_code == 3, done.output
    assert set(json.loads(done.stdout)["away"]) == {"S3", "log"}
    assert "S3: can't be asked: " in vireo(**nowhere).output


def test_an_empty_home_has_nothing_that_cannot_be_read(tmp_path: Path) -> None:
    done = run("upgrade", "check", VIREO_HOME=str(tmp_path))
    assert done.exit_code == 0, done.output
