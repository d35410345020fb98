"""`vireo upgrade`: whether this build reads what a deployment holds, by its own readers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import typer
from google.protobuf.message import DecodeError

from vireo.ops.cli.options import JsonOption
from vireo.ops.cli.output import document_of, print_json, print_table, table_of
from vireo.ops.stack.nats import known_log
from vireo.ops.stack.s3 import external_s3, open_store
from vireo.ops.stack.state import running_stack
from vireo.server.errors import NoAnswerError, VireoError
from vireo.server.event_log.jetstream import EVENT_KINDS, opened_log
from vireo.server.event_log.log import EVENTS, Position
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.features.activity import EventRules
from vireo.server.features.online_store import open_rows
from vireo.server.gateway.features import FeatureReader
from vireo.server.home import Home
from vireo.server.releases.bucket import NotInStoreError
from vireo.server.releases.channels import ChannelPointer
from vireo.server.releases.manifest import Manifest
from vireo.server.releases.store import ReleaseStore
from vireo.v1 import log_pb2

app = typer.Typer(
    no_args_is_help=True,
    help="Check that this build reads what a deployment holds, before and after an upgrade.\n\n"
    "`check` reads releases, channels, features, the log and this home as the installed build "
    "does, and says what it can't read.",
)

_NOT_READ, _NOT_ASKED = 1, NoAnswerError.exit_code
"""Exit codes."""
_STORE_SECONDS = 5.0
_LOG_SECONDS = 10.0
"""Maximum seconds to wait for each partition's messages."""
_LAST_RECORDS = 20
"""Records of a channel's history that are read: a rollback goes back to one of them."""
_TRAIN = "train again with this build; until then its pods serve the release that they have"
_REBUILD = "build the features again: vireo features build"
_EFFECTS = {
    "release manifest": _TRAIN,
    "channel": "set the channel again: vireo release promote",
    "event rules": f"consumers wait; {_REBUILD}",
    "online store": f"gateways go without features, and consumers wait; {_REBUILD}",
    "event messages": "consumers set them aside; once upgraded: vireo events replay-dead",
    "stack state": "commands don't find the stack: stop it with the build that started it",
    "data set": "fetch or import the data set again with --replace",
    "features": "`vireo train` builds them again by itself; or: vireo features build",
}
"""What happens if something can't be read, and what to do, by format."""


@dataclass(frozen=True)
class Held:
    """One document or message that another build may have written."""

    where: str
    format: str
    problem: str
    """Why this build can't read it; empty if it can."""

    @property
    def effect(self) -> str:
        """What happens since it can't be read; empty if it can."""
        return _EFFECTS.get(self.format, "") if self.problem else ""


@app.command()
def check(as_json: JsonOption = False) -> None:
    """Check what this deployment holds: home, S3, online stores and the log.

    Parts are found by the same settings as by every command: `VIREO_HOME`, `VIREO_S3_…` and
    `VIREO_NATS_URL`. Nothing is changed. Run it by the new build before an upgrade, and by the
    old one before a rollback.

    Exit code 0: this build reads everything. 1: it doesn't. 3: a part couldn't be asked.

    vireo upgrade check
    """
    held, away = dict[str, list[Held]](), dict[str, str]()
    for name, read in _PARTS.items():
        held[name] = []
        try:
            held[name].extend(read(Home.current()))
        except (VireoError, OSError) as error:  # a TimeoutError is one
            away[name] = str(error) or "it doesn't answer"
    if as_json:
        documents = [
            {"part": name, **document_of(each), "effect": each.effect}
            for name, some in held.items()
            for each in some
        ]
        print_json({"build": f"vireo {version('vireo')}", "away": away, "held": documents})
    else:
        _print(held, away)
    if any(each.problem for some in held.values() for each in some):
        raise typer.Exit(_NOT_READ)
    if away:
        raise typer.Exit(_NOT_ASKED)


def _print(held: Mapping[str, list[Held]], away: Mapping[str, str]) -> None:
    table = table_of("part", "read", "not read", numbers=("read", "not read"))
    lines, unreadable = list[str](), 0
    for name, some in held.items():
        bad = [each for each in some if each.problem]
        unreadable += len(bad)
        counts = ("?", "") if name in away else (str(len(some) - len(bad)), str(len(bad)))
        table.add_row(name, *counts)
        if name in away:
            lines.append(f"{name}: can't be asked: {away[name]}")
        for each in bad:
            lines.append(f"{each.where}: can't read this {each.format}: {each.problem}")
            lines += [f"  {each.effect}"] * bool(each.effect)
    if not unreadable:
        lines.append(f"vireo {version('vireo')} reads all of it")
    print_table(table)
    typer.echo("\n".join(lines))


def _home_files(home: Home) -> Iterator[Held]:
    """Yield the documents below a home; data sets only if training is installed."""
    for path in sorted((home.root / "runs").glob("[!.]*/release/manifest.json")):
        where = str(path.relative_to(home.root))
        yield _held(where, "release manifest", Manifest.parse, path.read_bytes(), "manifest.json")
    if (home.stack / "stack.json").exists():
        yield _held("stack/stack.json", "stack state", running_stack, home)
    try:
        from vireo.training.data.dataset import DESCRIPTION, describe_dataset
        from vireo.training.features.watches import Split
    except ModuleNotFoundError:  # an image that only serves
        return
    for path in sorted((home.root / "data").glob(f"[!.]*/{DESCRIPTION}")):
        name = path.parent.name
        yield _held(f"data/{name}/{DESCRIPTION}", "data set", describe_dataset, home, name)
    for path in sorted((home.root / "features").glob("[!.]*/split.json")):
        name = path.parent.name
        yield _held(f"features/{name}/split.json", "features", Split.load, home, name)


def _online_stores(home: Home) -> Iterator[Held]:
    """Yield the features of each data set, opened as gateways and consumers do."""
    for configuration in sorted((home.root / "features").glob("[!.]*/feature_store.yaml")):
        repo = configuration.parent
        where = f"features/{repo.name}"
        if (repo / "events.json").exists():
            yield _held(f"{where}/events.json", "event rules", EventRules.load, repo)
        try:
            yield _held(f"{where}/registry.db", "online store", _open, repo)
        except Exception as error:  # such as that Redis' client isn't installed
            raise VireoError(f"{repo}: {type(error).__name__}: {error}") from error


def _open(repo: Any) -> None:
    FeatureReader(repo, _STORE_SECONDS)
    open_rows(repo, _STORE_SECONDS).close()


def _stored(home: Home) -> Iterator[Held]:
    """Yield S3's channels with their history, and the releases that these name.

    The embedded server is started for it if there is one.
    """
    if external_s3() or home.s3.exists():
        with open_store() as store:
            if store.bucket.exists():
                yield from _stored_releases(store)


def _stored_releases(store: ReleaseStore) -> Iterator[Held]:
    bucket, named = store.bucket, dict[str, None]()

    def name(record: bytes, place: str) -> None:
        named[ChannelPointer.parse(record, place).release_id] = None

    for stored in bucket.objects("channels/"):
        channel = stored.name.removeprefix("channels/").removesuffix(".json")
        history = [each.name for each in bucket.objects(f"channels/history/{channel}/")]
        for place in [stored.name, *history[-_LAST_RECORDS:]] * stored.name.endswith(".json"):
            if found := bucket.get(place):
                yield _held(place, "channel", name, found[0], place)
    for release_id in named:
        place = f"releases/{release_id}/manifest.json"
        try:
            yield _held(place, "release manifest", store.manifest, release_id)
        except NotInStoreError:
            continue  # `vireo release gc` removed it: no format is at fault


def _logged(home: Home) -> Iterable[Held]:
    """Return the last events of the log; none without a log."""
    settings = known_log(home)
    return asyncio.run(_last_messages(settings)) if settings else []


_PARTS: Mapping[str, Callable[[Home], Iterable[Held]]] = {
    "home": _home_files,
    "S3": _stored,
    "online store": _online_stores,
    "log": _logged,
}


async def _last_messages(settings: EventLogSettings) -> list[Held]:
    """Return the last events of each partition: other messages of the log have no kinds."""
    found, partitions = list[Held](), settings.event_partitions
    async with (
        opened_log(settings, read_only=True) as event_log,
        asyncio.timeout(_LOG_SECONDS * (1 + partitions)),
    ):
        for key in map(str, range(partitions)):
            if not (end := await event_log.end(EVENTS, key)):
                continue
            async with aclosing(event_log.read(EVENTS, key, Position(end - 1))) as reading:
                entries = await anext(reading)
            where = f"{EVENTS.name}.{key}"
            found += [
                _held(where, "event messages", _read_events, each.data) for each in entries[-1:]
            ]
    return found


def _read_events(data: bytes) -> None:
    """Parse events; raise VireoError if there are some of kinds that this build doesn't know."""
    events = log_pb2.RecordedEvents.FromString(data).events
    if unknown := sorted({each.kind for each in events} - EVENT_KINDS.keys()):
        raise VireoError(f"it doesn't know events of kind {', '.join(map(str, unknown))}")


def _held(where: str, name: str, read: Callable[..., object], *arguments: object) -> Held:
    """Return what is there, and whether this build's own reader reads it.

    Raises:
        NotInStoreError: it isn't there.
    """
    problem = ""
    try:
        read(*arguments)
    except NotInStoreError:
        raise
    except DecodeError as error:
        problem = f"it can't be parsed: {error}"
    except VireoError as error:
        problem = str(error)
    return Held(where, name, problem)
