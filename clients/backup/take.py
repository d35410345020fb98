"""Makes a backup, while everything serves."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel

from clients.backup.archive import Archive, Manifest
from clients.backup.streams import copy_stream
from server.consumer.rows import OnlineRows
from server.control.backup_age import MARKER
from server.errors import VireoError
from server.event_log.log import CATALOG, DEAD, EVENTS, REMOVED, STATE
from server.event_log.open import open_log
from server.event_log.position import BEGIN, Position
from server.event_log.settings import EventLogSettings
from server.features.online_store import CONFIGURATION
from server.home import Home
from server.releases.bucket import Bucket
from server.releases.fields import DatasetName, FilePath
from server.releases.garbage import needed_releases
from server.releases.manifest import FileEntry
from server.releases.markers import manifest_place
from server.releases.store import ReleaseStore, release_object
from training.data.dataset import DESCRIPTION

RULES = "rules"
"""The file that VIREO_RULES names, in a backup."""
STREAMS = (STATE, DEAD, CATALOG, REMOVED, EVENTS)
"""In this order, so that what a stream says of a later one is in that one's copy, too."""
STORE_SECONDS = 60.0
"""Maximum seconds to wait for the online store."""
Say = Callable[[str], None]


class _Release(BaseModel):
    """What is needed of a release's manifest, whichever build wrote it."""

    dataset: DatasetName
    files: dict[FilePath, FileEntry]


def take_backup(
    home: Home, store: ReleaseStore, log: EventLogSettings, archive: Archive, say: Say
) -> Manifest:
    """Make a backup, complete it, and note it in the bucket of releases.

    Raises:
        VireoError: something can't be read or stored. Repeat it: what was stored stays.
    """
    began = datetime.now(UTC)
    archive.bucket.make()
    erased = frozenset(each.name for each in archive.bucket.objects("erased/"))
    before, datasets = archive.latest(), dict[str, bool]()
    listed = [each.name for each in store.bucket.objects("channels/", recursive=True)]
    channels = {f"bucket/{name}": _object(store.bucket, archive, name) for name in listed}
    files = dict[str, FileEntry]()
    for release_id, why in needed_releases(store).items():
        store.check_published(release_id)
        place = manifest_place(release_id)
        files[f"bucket/{place}"] = _object(store.bucket, archive, place)
        release = _Release.model_validate_json((archive.scratch / "object").read_bytes())
        served = datasets.get(release.dataset, False) or why.endswith("names it")
        datasets[release.dataset] = served
        for path, entry in release.files.items():
            name, known = release_object(release_id, path), entry.sha256 in archive.stored
            files[f"bucket/{name}"] = entry if known else _object(store.bucket, archive, name)
        files[f"bucket/{place}"] = files.pop(f"bucket/{place}")  # last: it makes a release
        say(f"release {release_id}: {len(release.files)} files")
    paths = {"home/security": home.security, "home/page_token_keys": home.root / "page_token_keys"}
    paths |= {f"home/data/{name}": home.data(name) for name in datasets}
    for name, root in paths.items():
        if root.exists() or datasets.get(root.name):
            files |= _files(archive, name, root)
    if rules := os.environ.get("VIREO_RULES"):
        files |= _files(archive, RULES, Path(rules))
    for name in datasets:
        if (home.features(name) / CONFIGURATION).exists():
            files[f"hides/{name}"] = _hides(archive, home.features(name))
    say(f"{home.root}: data sets {', '.join(datasets)}, hides, keys and rules")
    parts, positions = asyncio.run(_streams(log, archive, before, say))
    manifest = Manifest(
        name=f"{began:%Y%m%dT%H%M%S%fZ}",
        began=began,
        build=version("vireo"),
        partitions=log.event_partitions,
        files={**files, **parts, **channels},
        positions=positions,
        erased=erased,
    )
    archive.finish(manifest)
    note(store.bucket, manifest)
    return manifest


def note(bucket: Bucket, manifest: Manifest) -> None:
    """Note in the bucket of releases when the last backup began."""
    found = bucket.get(MARKER)
    bucket.swap(MARKER, manifest.began.isoformat().encode(), found[1] if found else None)


def _object(bucket: Bucket, archive: Archive, name: str) -> FileEntry:
    """Store an object of the bucket of releases."""
    copy = archive.scratch / "object"
    with copy.open("wb") as file:
        file.writelines(bucket.read(name))
    return archive.put(copy)


def _files(archive: Archive, name: str, root: Path) -> dict[str, FileEntry]:
    """Store a file, or those of a folder; raise VireoError if it is missing or is replaced."""
    try:
        before = root.stat().st_ino
        # The description last: it makes a data set.
        paths = sorted(root.rglob("*"), key=lambda each: (each.name == DESCRIPTION, each))
        files = {
            f"{name}/{path.relative_to(root)}": archive.put(path)
            for path in paths
            if path.is_file() and not path.name.startswith(".") and path.suffix != ".new"
        }
        if root.stat().st_ino == before:
            return files if root.is_dir() else {name: archive.put(root)}
    except FileNotFoundError as error:
        raise VireoError(f"{error.filename} is missing; run vireo backup where it is") from error
    raise VireoError(f"{root} was replaced while it was read; repeat this")


def _hides(archive: Archive, repo: Path) -> FileEntry:
    """Store what viewers have hidden, as JSON lines: viewer, and times by key."""
    path, rows = archive.scratch / "hides", OnlineRows(repo, STORE_SECONDS)
    try:
        with path.open("wb") as raw, gzip.GzipFile("", "wb", 1, raw, mtime=0) as file:
            for each in rows.hides():
                file.write(json.dumps(each).encode() + b"\n")
        if rows.superseded():
            raise VireoError("features were built while hides were read; repeat this")
    finally:
        rows.close()
    return archive.put(path)


async def _streams(
    settings: EventLogSettings, archive: Archive, before: Manifest | None, say: Say
) -> tuple[dict[str, FileEntry], dict[str, Position]]:
    event_log = open_log(settings, read_only=True)
    assert event_log is not None, "the settings name it"
    files, positions = dict[str, FileEntry](), dict[str, Position]()
    try:
        for stream in STREAMS:
            last = before.positions[stream.name] if before else BEGIN
            known = dict(parts_of(before, stream.name)) if before else {}
            parts, positions[stream.name] = await copy_stream(
                event_log, stream, archive, (known, last)
            )
            files |= {f"log/{stream.name}/{n:020d}": part for n, part in parts.items()}
            say(f"log: {stream.name} up to {positions[stream.name].sequence:,}")
    finally:
        await event_log.close()
    return files, positions


def parts_of(manifest: Manifest, stream: str) -> Iterator[tuple[int, FileEntry]]:
    """Yield a stream's parts in order, with the last sequence of each."""
    for path, part in sorted(manifest.files.items()):
        if path.startswith(f"log/{stream}/"):
            yield int(path.rpartition("/")[2]), part
