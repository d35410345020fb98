"""`vireo backup` and `vireo restore` with a real log, real buckets and a real online store."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from minio import Minio
from typer.testing import Result

from tests.builders.commands import reaching
from tests.builders.commands import vireo as run
from tests.builders.datasets import random_interactions, write_small_dataset
from tests.builders.event_batches import message
from tests.builders.nats import RunningNats, running_nats, with_log
from tests.builders.reading import take as taken
from tests.builders.recording import play as played
from tests.builders.releases import build_release
from tests.builders.s3 import client_of, running_s3
from tests.builders.waiting import until
from vireo.ops.backup import content
from vireo.ops.backup.archive import Archive, Manifest
from vireo.ops.stack.state import stack_lock
from vireo.server.control.channels import BACKUP_BEGAN, follow_backups
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import CATALOG, DEAD, EVENTS, STREAMS, partition_of
from vireo.server.features.online_store import read_viewer
from vireo.server.file_lock import file_lock
from vireo.server.home import Home
from vireo.server.releases.bucket import Bucket
from vireo.server.releases.channels import Change
from vireo.server.releases.s3 import BackupSettings, S3Settings
from vireo.server.releases.store import ReleaseStore, needed_releases
from vireo.training.data.dataset import load_dataset
from vireo.v1 import event_pb2, log_pb2
from vireo.v1.viewer_pb2 import ViewerFeatures

pytestmark = pytest.mark.usefixtures("logs_of_a_command")

DATASET, RELEASE, VIEWER, OTHER, PARTITIONS = "tiny", "tiny-1", "w1", "w2", 2


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Settings]:
    with running_s3(tmp_path_factory.mktemp("s3")) as settings:
        yield settings


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[RunningNats]:
    with running_nats(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def site(
    tmp_path: Path, s3: S3Settings, nats: RunningNats, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    """What is backed up, and to where; both buckets are empty before and after."""
    monkeypatch.setattr("vireo.ops.cli.viewers._CONSUMER_SECONDS", 0.2)
    made = Site(Home(tmp_path / "home"), s3, nats, tmp_path)
    write_small_dataset(made.home, DATASET, random_interactions())
    made.publish()
    made.record([play(VIEWER, "v50"), play(OTHER, "v51")])
    yield made
    for name in (made.releases.bucket, made.backups.bucket):
        for each in made.s3.list_objects(name, recursive=True):
            made.s3.remove_object(name, each.object_name or "")


class Site:
    """A home, a log and two buckets."""

    def __init__(self, home: Home, s3: S3Settings, nats: RunningNats, folder: Path) -> None:
        self.home, self.nats, self.folder = home, nats, folder
        self.releases = s3
        self.backups = BackupSettings(**{**s3.model_dump(), "bucket": "vireo-backup"})
        self.s3: Minio = client_of(s3)

    def publish(self) -> None:
        folder = build_release(self.folder / "release", release_id=RELEASE)
        store = ReleaseStore(self.releases)
        store.publish(folder)
        store.change_channel("production", Change(RELEASE), None)

    @property
    def environment(self) -> dict[str, str]:
        secret = self.releases.secret_key.get_secret_value()
        return {
            "VIREO_HOME": str(self.home.root),
            **reaching(self.nats),
            "VIREO_EVENT_PARTITIONS": str(PARTITIONS),
            **self.releases.environment(),
            "VIREO_BACKUP_S3_ENDPOINT": self.backups.endpoint,
            "VIREO_BACKUP_S3_ACCESS_KEY": self.backups.access_key,
            "VIREO_BACKUP_S3_SECRET_KEY": secret,
        }

    def vireo(self, *arguments: str, **more: str) -> Result:
        return run(*arguments, **self.environment | more)

    def backup(self, *arguments: str) -> Manifest:
        done = self.vireo("backup", *arguments)
        assert done.exit_code == 0, (done.output, done.exception)
        return self.archive.manifest("")

    def restore(self, *arguments: str) -> str:
        done = self.vireo("restore", *arguments)
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output

    @property
    def archive(self) -> Archive:
        return Archive(self.backups, self.folder)

    def with_log(self, work: Callable[[JetStreamLog], Any]) -> Any:
        return with_log(self.nats, work, event_partitions=PARTITIONS)

    def record(self, events: list[event_pb2.Event]) -> None:
        async def append(log: JetStreamLog) -> None:
            for each in events:
                key = str(partition_of(each.viewer_id, PARTITIONS))
                await log.append(EVENTS, key, message([each]))

        self.with_log(append)

    def stored(self, stream: Any = EVENTS) -> list[tuple[int, str, bytes]]:
        found = self.with_log(lambda log: taken(log, stream))
        return [(each.sequence, each.key, each.data) for each in found]

    def lose(self) -> None:
        """Nothing but the backups is left."""
        shutil.rmtree(self.home.root)
        self.nats.kill()
        self.nats.forget()
        self.nats.start()
        for each in self.s3.list_objects(self.releases.bucket, recursive=True):
            self.s3.remove_object(self.releases.bucket, each.object_name or "")

    async def exported(self) -> float:
        """What the control plane exports as the begin of the last backup."""
        BACKUP_BEGAN.set(0)
        following = asyncio.create_task(follow_backups(Bucket(self.releases)))
        await until(lambda: BACKUP_BEGAN._value.get() != 0)
        following.cancel()
        return float(BACKUP_BEGAN._value.get())

    def interactions(self) -> int:
        return len(load_dataset(self.home, DATASET).interactions)

    def viewers(self) -> set[str]:
        return set(load_dataset(self.home, DATASET).interactions["viewer_id"])


def play(viewer: str, video: str, number: int = 0) -> event_pb2.Event:
    made: event_pb2.Event = played(f"{video}-{number}", viewer, video)
    made.time.FromSeconds(1_800_000_000 + number)
    return made


def test_a_second_backup_stores_only_what_is_new_and_positions_hold(site: Site) -> None:
    first = site.backup()
    assert asyncio.run(site.exported()) == first.began.timestamp()
    site.record([play(OTHER, "v52", 1)])
    for key in ("aa", "bb", "aa"):
        site.with_log(partial(JetStreamLog.append, stream=CATALOG, key=key, data=b""))
    second = site.backup()
    assert first.files.keys() < second.files.keys()
    same = {path for path, each in second.files.items() if first.files.get(path) == each}
    assert second.files.keys() - same == {"log/events", "log/catalog"}
    before = {stream: site.stored(stream) for stream in STREAMS}
    position = second.position
    catalog = site.with_log(lambda log: log.position_at(CATALOG, time.time()))
    site.lose()
    site.restore()
    assert {stream: site.stored(stream) for stream in STREAMS} == before
    for stream, stored in ((EVENTS, position), (CATALOG, catalog)):
        start = site.with_log(partial(JetStreamLog.resume, stream=stream, stored=stored))
        assert (start.after, list(start.missing)) == (3, [])
    # The next one goes on from there.
    site.record([play(OTHER, "v53", 2)])
    assert site.backup().position.sequence == 4
    assert len(site.stored()) == 4


def test_an_older_backup_brings_nobody_back_who_was_erased_since(site: Site) -> None:
    for viewer in (OTHER, "w3"):  # set aside: whoever replays it brings its viewer back
        letter = log_pb2.DeadEvents(recorded=message([play(viewer, "v54")]))
        key = str(partition_of(viewer, PARTITIONS))
        site.with_log(
            partial(JetStreamLog.append, stream=DEAD, key=key, data=letter.SerializeToString())
        )
    site.backup()
    # Erased where nobody knew of the backups: the next backup tells the older one.
    unknown = {"VIREO_BACKUP_S3_ENDPOINT": ""}
    assert site.vireo("viewers", "erase", OTHER, "--yes", **unknown).exit_code == 0
    site.backup()
    done = site.vireo("viewers", "erase", VIEWER, "--yes")
    assert "backups: a restore of any leaves the viewer out" in done.output
    assert "- backups" not in done.output
    oldest = site.archive.names()[0]
    site.lose()
    said = site.restore(oldest)
    assert "viewers to erase again: 2" in said
    assert said.count(f"{site.home.data(DATASET)}: ") == 1, "one pass for all"
    assert not {VIEWER, OTHER} & site.viewers()
    repo = site.home.features(DATASET)
    for viewer in (VIEWER, OTHER):
        assert read_viewer(repo, viewer) == ViewerFeatures()
    assert read_viewer(repo, "w3").watched_keys
    [(_, _, left)] = site.stored(DEAD)
    assert b"w3" in left
    # Who comes back counts anew, and stays through the next restore.
    site.record([play(VIEWER, "v53", 3)])
    site.backup()
    site.lose()
    assert "viewers to erase again: 0" in site.restore()
    assert read_viewer(site.home.features(DATASET), VIEWER).watch_count == 1


def test_what_was_interrupted_is_no_backup_and_a_restore_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.record([play(OTHER, f"v{number % 50}", number) for number in range(600)])
    site.with_log(lambda log: log.append(CATALOG, "aa", b""))
    with monkeypatch.context() as broken:
        broken.setattr("vireo.ops.backup.content.Archive.finish", _fails)
        assert isinstance(site.vireo("backup").exception, ConnectionResetError)
    nothing = site.vireo("restore")
    assert "there are: none" in str(nothing.exception)
    site.backup()
    before = {stream: site.stored(stream) for stream in STREAMS}
    site.lose()
    with monkeypatch.context() as broken:
        broken.setattr("vireo.server.event_log.jetstream.JetStreamLog.restore", _fails_after(1))
        assert isinstance(site.vireo("restore").exception, ConnectionResetError)
    assert "--replace" in str(site.vireo("restore").exception)
    site.restore("--replace", "--yes")
    assert {stream: site.stored(stream) for stream in STREAMS} == before
    channel = ReleaseStore(site.releases).read_channel("production")
    assert channel is not None
    assert channel.release_id == RELEASE
    assert read_viewer(site.home.features(DATASET), VIEWER).watched_keys


def _fails(*_arguments: Any) -> None:
    raise ConnectionResetError("a test")


def _fails_after(count: int) -> Any:
    restore, calls = JetStreamLog.restore, iter(range(count))

    async def fails(self: JetStreamLog, *arguments: Any) -> None:
        if next(calls, None) is None:
            raise ConnectionResetError("a test")
        await restore(self, *arguments)

    return fails


def test_what_is_there_is_overwritten_only_if_told_and_what_was_changed_is_refused(
    site: Site,
) -> None:
    manifest = site.backup()
    site.record([play(OTHER, "v53", 9)])
    shutil.rmtree(site.home.data(DATASET))
    write_small_dataset(site.home, DATASET, random_interactions().iloc[:300])
    there = site.interactions()
    said = site.restore("--dry-run")
    assert "there already: 1" in said
    assert "nothing was changed" in said
    assert "already" in str(site.vireo("restore").exception)
    assert (site.interactions(), len(site.stored())) == (there, 3)
    site.restore("--replace", "--yes")
    assert site.interactions() > there
    assert len(site.stored()) == 2
    part = manifest.files["log/events"]
    path = site.folder / "changed"
    path.write_bytes(b"something else")
    site.s3.fput_object(site.backups.bucket, f"objects/{part.sha256}", str(path))
    site.lose()
    assert "isn't what was stored" in str(site.vireo("restore").exception)


def test_a_backup_has_the_releases_that_its_channels_name(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though they are changed while it is made."""
    store, names = ReleaseStore(site.releases), ["tiny-2", "tiny-3"]
    for name in names:
        store.publish(build_release(site.folder / name, release_id=name))

    def changed(*arguments: Any) -> dict[str, str]:
        while names:
            channel = store.read_channel("production")
            store.change_channel("production", Change(names.pop(0)), channel)
        return needed_releases(*arguments)

    monkeypatch.setattr(content, "needed_releases", changed)
    manifest = site.backup()
    channel = manifest.files["bucket/channels/production.json"]
    assert b"tiny-3" in site.archive.fetch(channel).read_bytes()
    assert {f"bucket/releases/{name}/manifest.json" for name in ("tiny-2", "tiny-3")} <= {
        *manifest.files
    }


def test_without_the_data_set_of_what_is_served_there_is_no_backup(site: Site) -> None:
    shutil.rmtree(site.home.data(DATASET))
    assert "is missing; run vireo backup where it is" in str(site.vireo("backup").exception)
    assert site.archive.names() == []


def test_a_file_that_is_changed_while_it_is_stored_spoils_no_later_backup(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules, put_file = site.folder / "rules.toml", Bucket.put_file
    rules.write_text("# before\n")
    monkeypatch.setenv("VIREO_RULES", str(rules))

    def changed(bucket: Bucket, name: str, path: Path) -> Any:
        if path == rules:
            rules.write_text("# after\n")
        return put_file(bucket, name, path)

    with monkeypatch.context() as editor:
        editor.setattr(Bucket, "put_file", changed)
        assert "changed while it was read" in str(site.vireo("backup").exception)
    rules.write_text("# before\n")
    manifest = site.backup()
    assert site.archive.fetch(manifest.files[content.RULES]).read_text() == "# before\n"


def test_nothing_is_restored_under_a_stack(site: Site) -> None:
    site.backup()
    shutil.rmtree(site.home.data(DATASET))
    with file_lock(stack_lock(site.home)):
        assert "a stack runs on" in str(site.vireo("restore", "--replace", "--yes").exception)
        assert "there already: 0" in site.restore("--dry-run")
    assert not site.home.data(DATASET).exists()


async def test_before_a_first_backup_its_age_is_that_of_time_if_backups_are_set(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIREO_BACKUP_S3_ENDPOINT", site.backups.endpoint)
    following = asyncio.create_task(follow_backups(Bucket(site.releases)))
    BACKUP_BEGAN.set(1)
    await until(lambda: BACKUP_BEGAN._value.get() == 0)
    following.cancel()


def test_the_last_backups_are_kept_and_share_what_they_have(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = site.backup()
    site.record([play(OTHER, "v52", 1)])
    monkeypatch.setattr("vireo.ops.backup.archive._UNFINISHED", timedelta(hours=-1))
    assert "1 old ones removed" in site.vireo("backup", "--keep", "1").output
    assert site.archive.names() != [first.name]
    assert len(site.archive.names()) == 1
    assert "0 old ones removed" in site.vireo("backup", "--keep", "5").output
    site.lose()
    site.restore()
    assert len(site.stored()) == 3
