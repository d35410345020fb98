"""`vireo upgrade` on a home, a real S3 server and a real log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from tests.builders.nats import TOKEN, RunningNats, settings_of
from tests.builders.releases import build_release
from tests.builders.s3 import client_of, running_s3
from tests.ops.upgrades.previous_home import unpack_previous
from vireo.ops.cli import upgrade
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import CATALOG, DEAD, EVENTS, STATE
from vireo.server.home import Home
from vireo.server.releases.store import ReleaseStore
from vireo.v1 import event_pb2

pytestmark = pytest.mark.usefixtures("logs_of_a_command")

app = typer.Typer()
app.add_typer(upgrade.app, name="upgrade")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReleaseStore]:
    with running_s3(tmp_path_factory.mktemp("s3")) as settings:
        yield ReleaseStore(settings)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return unpack_previous(tmp_path)


@pytest.fixture
def vireo(home: Home, nats: RunningNats, store: ReleaseStore) -> Callable[..., Result]:
    s3 = store.settings
    environment = {
        "COLUMNS": "200",
        "VIREO_HOME": str(home.root),
        "VIREO_NATS_URL": nats.url,
        "VIREO_NATS_TOKEN": TOKEN,
        "VIREO_S3_ENDPOINT": s3.endpoint,
        "VIREO_S3_ACCESS_KEY": s3.access_key,
        "VIREO_S3_SECRET_KEY": s3.secret_key.get_secret_value(),
        "VIREO_S3_BUCKET": s3.bucket,
    }
    return lambda *arguments, **more: CliRunner(env={**environment, **more}).invoke(
        app, ["upgrade", *arguments]
    )


def put(store: ReleaseStore, name: str, body: bytes) -> None:
    store.bucket.make()
    found = store.bucket.get(name)
    assert store.bucket.swap(name, body, found[1] if found else None)


def append_messages(nats: RunningNats, folder: Path) -> None:
    streams = {each.name: each for each in (EVENTS, DEAD, CATALOG, STATE)}
    messages = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

    async def run() -> None:
        log = JetStreamLog(settings_of(nats))
        try:
            for name, data in messages.items():
                stream, _, key = name.partition(".")
                await log.append(streams[stream], key, data)
        finally:
            await log.close()

    asyncio.run(run())


def test_what_the_previous_build_left_in_every_part_is_read(
    vireo: Callable[..., Result], home: Home, store: ReleaseStore, nats: RunningNats
) -> None:
    store.publish(home.staged_release("tiny"))
    for path in sorted((home.root / "objects").rglob("*.json")):
        put(store, str(path.relative_to(home.root / "objects")), path.read_bytes())
    append_messages(nats, home.root / "messages")
    done = vireo("check", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["away"] == {}
    assert document["differences"]["upgrade"] == []
    held = {(each["part"], each["format"]) for each in document["held"]}
    assert held >= {
        ("S3", "channel"),
        ("S3", "release manifest"),
        ("S3", "feature schema"),
        ("log", "event messages"),
        ("log", "kinds of events"),
        ("log", "dead events"),
        ("log", "catalogue changes"),
        ("log", "trending"),
        ("log", "consumer progress"),
        ("online store", "online store"),
        ("home", "data set"),
    }
    shown = vireo("check")
    assert shown.exit_code == 0
    assert "reads all of it, and so does" in shown.output


def test_what_a_newer_build_wrote_is_named_with_what_happens(
    vireo: Callable[..., Result], home: Home, store: ReleaseStore, nats: RunningNats, tmp_path: Path
) -> None:
    newer = build_release(tmp_path / "newer", release_id="newer-1")
    store.publish(newer)
    place = "releases/newer-1/manifest.json"
    manifest = json.loads((newer / "manifest.json").read_bytes())
    put(store, place, json.dumps(manifest | {"format_version": 6}).encode())
    record: dict[str, Any] = json.loads(
        (home.root / "objects/channels/production.json").read_bytes()
    )
    put(
        store, "channels/next.json", json.dumps(record | {"release_id": "newer-1", "n": 1}).encode()
    )
    # A kind of events, and a field, that this build doesn't know.
    event = event_pb2.Event(event_id="e", viewer_id="v", kind=99).SerializeToString()  # type: ignore[arg-type]
    event += bytes([0xA0, 0x38, 1])
    (tmp_path / "events").mkdir()
    (tmp_path / "events/events.0").write_bytes(bytes([0x0A, len(event)]) + event)
    append_messages(nats, tmp_path / "events")
    done = vireo("check")
    assert done.exit_code == 1, done.output
    assert (
        f"{place}: this build can't read this release manifest: format_version is 6" in done.output
    )
    assert "channels/next.json: ignores n, which a newer build wrote" in done.output
    assert "events.0: this build can't read this kinds of events: it doesn't know 99" in done.output
    assert "vireo events replay --dead" in done.output
    assert "events.0: ignores events.900" in done.output
    client_of(store.settings).remove_object(store.bucket.name, "channels/next.json")


def test_what_the_build_before_cannot_read_is_told_before_a_rollback(
    vireo: Callable[..., Result], home: Home
) -> None:
    path = home.data("tiny") / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"attributes": {"x": "labels"}}))
    done = vireo("check")
    assert done.exit_code == 1, done.output
    assert "data/tiny/dataset.json: vireo 0.1.0, before" in done.output
    assert "can't read this data set: it doesn't know attributes" in done.output
    own = vireo("formats", "--json")
    (home.root / "own.json").write_text(own.stdout)
    assert (
        "doesn't know attributes"
        not in vireo("check", "--against", str(home.root / "own.json")).output
    )


def test_a_part_that_is_away_is_another_exit_code(vireo: Callable[..., Result]) -> None:
    done = vireo(
        "check", "--json", VIREO_S3_ENDPOINT="127.0.0.1:1", VIREO_NATS_URL="nats://127.0.0.1:1"
    )
    assert done.exit_code == 2, done.output
    assert set(json.loads(done.stdout)["away"]) == {"S3", "log"}
    shown = vireo("check", VIREO_S3_ENDPOINT="127.0.0.1:1", VIREO_NATS_URL="nats://127.0.0.1:1")
    assert "S3: can't be asked: " in shown.output


def test_an_empty_home_has_nothing_that_cannot_be_read(tmp_path: Path) -> None:
    done = CliRunner(env={"VIREO_HOME": str(tmp_path), "COLUMNS": "200"}).invoke(
        app, ["upgrade", "check"]
    )
    assert done.exit_code == 0, done.output


def test_formats_are_shown_as_a_table(vireo: Callable[..., Result]) -> None:
    shown = vireo("formats")
    assert shown.exit_code == 0
    assert "release manifest" in shown.output
