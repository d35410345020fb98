"""What a deployment holds, opened as this build's processes open it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError, Message

from vireo.ops.stack.state import running_stack
from vireo.server.errors import VireoError
from vireo.server.event_log.log import (
    CATALOG,
    DEAD,
    EVENT_KINDS,
    EVENTS,
    REMOVED,
    STATE,
    Entry,
    LogAwayError,
    Position,
    Stream,
)
from vireo.server.features.activity import EventRules
from vireo.server.features.online_store import open_rows
from vireo.server.gateway.features import FeatureReader
from vireo.server.home import Home
from vireo.server.releases.bucket import NotInStoreError, StoreError
from vireo.server.releases.channels import ChannelPointer
from vireo.server.releases.manifest import Manifest
from vireo.server.releases.store import ReleaseStore
from vireo.v1 import log_pb2

if TYPE_CHECKING:
    from vireo.server.event_log.jetstream import JetStreamLog

_STORE_SECONDS = 5.0
_LOG_SECONDS = 10.0
"""Maximum seconds to wait for each partition's messages."""
_LAST_RECORDS = 20
"""Records of a channel's history that are read: a rollback goes back to one of them."""
_STATE_KINDS: dict[str, tuple[str, type[Message]]] = {
    "trending": ("trending", log_pb2.Trending),
    "progress": ("consumer progress", log_pb2.ConsumerProgress),
}
_TRAIN = "train again with this build; until then its pods serve the release that they have"
_REBUILD = "build the features again: vireo features build"
_EFFECTS = {
    "release manifest": _TRAIN,
    "channel": "set the channel again: vireo release promote",
    "event rules": f"consumers wait; {_REBUILD}",
    "online store": f"gateways go without features, and consumers wait; {_REBUILD}",
    "event messages": "consumers set them aside; once upgraded: vireo events replay --dead",
    "stack state": "commands don't find the stack: stop it with the build that started it",
    "data set": "fetch or import the data set again with --force",
    "features": "`vireo train` builds them again by itself; or: vireo features build",
}
"""What happens if something can't be read, and what to do, by format."""


@dataclass(frozen=True)
class Held:
    """One document or message that another build may have written."""

    where: str
    format: str
    problem: str = ""
    """Why this build can't read it, by its own reader; empty if it can."""

    @property
    def effect(self) -> str:
        """What happens since it can't be read; empty if it can."""
        return _EFFECTS.get(self.format, "") if self.problem else ""


@dataclass(frozen=True)
class Part:
    """One part of a deployment."""

    name: str
    held: tuple[Held, ...] = ()
    away: str = ""
    """Why it couldn't be asked; empty if it could."""


def home_files(home: Home) -> Part:
    """Return the documents below a home; data sets only if training is installed."""
    try:
        return Part("home", tuple(_home_files(home)))
    except OSError as error:
        return Part("home", away=f"{error.filename}: {error.strerror}")


def online_stores(home: Home) -> Part:
    """Return the features of each data set, opened as gateways and consumers do."""
    held = []
    for configuration in sorted((home.root / "features").glob("[!.]*/feature_store.yaml")):
        repo = configuration.parent
        where = f"features/{repo.name}"
        if (repo / "events.json").exists():
            rules = _problem(EventRules.load, repo)
            held.append(Held(f"{where}/events.json", "event rules", rules))
        try:
            held.append(Held(f"{where}/registry.db", "online store", _problem(_open, repo)))
        except Exception as error:  # noqa: BLE001  # Feast raises errors of any type
            away = f"{repo}: {type(error).__name__}: {error}"
            return Part("online store", tuple(held), away)
    return Part("online store", tuple(held))


def stored_releases(store: ReleaseStore) -> Part:
    """Return S3's channels with their history, and the releases that these name."""
    try:
        return Part("S3", tuple(_stored_releases(store)))
    except StoreError as error:
        return Part("S3", away=str(error))


async def logged(event_log: JetStreamLog, partitions: int) -> Part:
    """Return the last messages of the log's streams, whose events have so many partitions."""
    try:
        async with asyncio.timeout(_LOG_SECONDS * (1 + partitions)):
            return Part("log", tuple([each async for each in _logged(event_log, partitions)]))
    except (LogAwayError, TimeoutError) as error:
        return Part("log", away=str(error) or "the log doesn't answer")


def _home_files(home: Home) -> Iterator[Held]:
    def of(path: Path, name: str, read: Callable[..., object], *arguments: object) -> Held:
        return Held(str(path.relative_to(home.root)), name, _problem(read, *arguments))

    for path in sorted((home.root / "runs").glob("[!.]*/release/manifest.json")):
        yield of(path, "release manifest", Manifest.parse, path.read_bytes(), "manifest.json")
    if (path := home.stack / "stack.json").exists():
        yield of(path, "stack state", running_stack, home)
    try:
        from vireo.training.data.dataset import DESCRIPTION, describe_dataset
        from vireo.training.features.watches import Split
    except ModuleNotFoundError:  # an image that only serves
        return
    for path in sorted((home.root / "data").glob(f"[!.]*/{DESCRIPTION}")):
        yield of(path, "data set", describe_dataset, home, path.parent.name)
    for path in sorted((home.root / "features").glob("[!.]*/split.json")):
        yield of(path, "features", Split.load, home, path.parent.name)


def _open(repo: Path) -> None:
    FeatureReader(repo, _STORE_SECONDS)
    open_rows(repo, _STORE_SECONDS).close()


def _stored_releases(store: ReleaseStore) -> Iterator[Held]:
    bucket = store.bucket
    if not bucket.exists():
        return
    named: dict[str, None] = {}
    for stored in bucket.objects("channels/"):
        if not stored.name.endswith(".json"):
            continue
        channel = stored.name.removeprefix("channels/").removesuffix(".json")
        records = [each.name for each in bucket.objects(f"channels/history/{channel}/")]
        for place in [stored.name, *records[-_LAST_RECORDS:]]:
            if (found := bucket.get(place)) is None:
                continue
            try:
                named[ChannelPointer.parse_record(found[0], place).release_id] = None
            except StoreError as error:
                yield Held(place, "channel", str(error))
            else:
                yield Held(place, "channel")
    for release_id in named:
        try:
            problem = _problem(store.manifest, release_id)
        except NotInStoreError:
            continue  # `vireo release gc` removed it: no format is at fault
        yield Held(f"releases/{release_id}/manifest.json", "release manifest", problem)


async def _logged(event_log: JetStreamLog, partitions: int) -> AsyncIterator[Held]:
    for key in map(str, range(partitions)):
        if entry := await _last(event_log, EVENTS, key):
            yield _events(f"{EVENTS.name}.{key}", entry)
        if entry := await _last(event_log, DEAD, key):
            yield _parsed(f"{DEAD.name}.{key}", "dead events", entry, log_pb2.DeadEvents)
    for stream in (CATALOG, REMOVED):
        if entry := await _last(event_log, stream):
            yield _parsed(stream.name, "catalogue changes", entry, log_pb2.CatalogChange)
    if not await event_log.end(STATE):
        return
    async for entry in (each async for some in event_log.up_to_end(STATE) for each in some):
        if kind := _STATE_KINDS.get(entry.key.partition(".")[0]):
            yield _parsed(f"{STATE.name}.{entry.key}", kind[0], entry, kind[1])


async def _last(event_log: JetStreamLog, stream: Stream, key: str = "") -> Entry | None:
    """Return the last message of a stream; None if it is empty."""
    end = await event_log.end(stream, key)
    if not end:
        return None
    async with aclosing(event_log.read(stream, key, Position(end - 1))) as reading:  # type: ignore[type-var]
        async for entries in reading:
            return entries[-1] if entries else None
    return None


def _events(where: str, entry: Entry) -> Held:
    held = _parsed(where, "event messages", entry, log_pb2.RecordedEvents)
    if not held.problem:
        events = log_pb2.RecordedEvents.FromString(entry.data).events
        unknown = sorted({each.kind for each in events} - EVENT_KINDS.keys())
        if unknown:
            kinds = ", ".join(map(str, unknown))
            return Held(where, held.format, f"it doesn't know events of kind {kinds}")
    return held


def _parsed(where: str, name: str, entry: Entry, message: type[Message]) -> Held:
    try:
        message.FromString(entry.data)
    except DecodeError as error:
        return Held(where, name, f"it can't be parsed: {error}")
    return Held(where, name)


def _problem(read: Callable[..., object], *arguments: object) -> str:
    """Return why this build's own reader can't read something; empty if it can.

    Raises:
        NotInStoreError: it isn't there.
    """
    try:
        read(*arguments)
    except NotInStoreError:
        raise
    except VireoError as error:
        return str(error)
    return ""
