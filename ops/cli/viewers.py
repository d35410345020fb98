"""`vireo viewers`: erase a viewer from the online store, the data sets, and all later builds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from vireo.ops.backup.archive import store_tombstone
from vireo.ops.cli.events import dead_letters, mark_replayed
from vireo.ops.cli.options import DryRunOption, JsonOption, YesOption, confirm
from vireo.ops.cli.output import print_json, remarks_if
from vireo.ops.stack.nats import known_log
from vireo.server.errors import NoAnswerError, VireoError
from vireo.server.event_log.jetstream import JetStreamLog, opened_log
from vireo.server.event_log.log import (
    ARCHIVED,
    BEGIN,
    DEAD,
    EVENTS,
    PROGRESS,
    STATE,
    LogAwayError,
    Position,
    partition_of,
)
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.features.online_store import open_rows
from vireo.server.home import Home
from vireo.server.releases.bucket import Bucket
from vireo.server.releases.s3 import BackupSettings
from vireo.training.data.columns import ID_BYTES
from vireo.training.data.dataset import erase_from_dataset, erase_from_tables
from vireo.training.data.folder import remove_abandoned_drafts
from vireo.v1 import log_pb2
from vireo.v1.log_pb2 import ConsumerProgress

app = typer.Typer(no_args_is_help=True)

_CONSUMER_SECONDS = 30.0
"""Seconds to wait until the consumer has come past the erasure."""
_STORE_SECONDS = 10.0
_DAY = 86_400
_MARKS = {"data": "dataset.json", "features": "feature_store.yaml", "runs": "checkpoints"}
"""What each kind of folder has in it."""


@app.command()
def erase(
    viewer: Annotated[
        str, typer.Argument(metavar="VIEWER", help="Your id of the viewer, as events have it.")
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Data set to erase from; repeat it. By default all of them."
        ),
    ] = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Erase a viewer: from the online store, the data sets, and all that is built from the log.

    Events that come later count anew. It may be repeated, and should be if it fails halfway. What
    it can't erase from doesn't keep it from the rest.

    vireo viewers erase 1
    """
    home = Home.current()
    if not 0 < len(viewer.encode()) <= ID_BYTES:  # its tombstone would have no valid name
        raise VireoError(f"{viewer!r} is no viewer's id: these have 1 to {ID_BYTES} bytes")
    settings = known_log(home)
    if dry_run:
        places = [str(each) for each in _places(home, data)]
        if settings is not None:
            places += ["the log", *asyncio.run(_archive_place(settings, viewer))]
        if as_json:
            print_json({"viewerId": viewer, "places": places, "erased": False})
        else:
            typer.echo("\n".join(f"would erase it from {place}" for place in places))
        return
    confirm(f"erase all that {home.root} and its log know of {viewer!r}?", yes=yes)
    with remarks_if(as_json):
        failures = _erase(home, settings, viewer, data)
    if failures:
        raise VireoError(f"not erased everywhere; mend this and repeat it: {'; '.join(failures)}")
    if as_json:
        print_json({"viewerId": viewer, "places": [*_places(home, data)], "erased": True})


def _places(home: Home, data: list[str] | None) -> Iterator[Path]:
    """Yield the folders that may have something of a viewer."""
    for each in (home, home.measuring):
        for kind in _MARKS:
            yield from _folders([each], kind, data)


def _erase(
    home: Home, settings: EventLogSettings | None, viewer: str, data: list[str] | None
) -> list[str]:
    """Erase a viewer, saying where; return what failed."""
    failures: list[str] = []
    # Rows first: what viewers do after the log's word counts anew.
    for folder in _folders((home, home.measuring), "features", data):
        with _noted(failures), closing(open_rows(folder, _STORE_SECONDS)) as store:
            _say(folder, "removed from the online store" if store.erase([viewer]) else "")
    at = time.time_ns()
    try:
        position = asyncio.run(_record(settings, {viewer: at})) if settings else 0
    except VireoError as error:
        raise VireoError("; ".join([*failures, str(error)])) from error
    _erase_from_files(home, [viewer], data, failures)
    with _noted(failures):
        _say_to_backups(viewer, at)
    if settings is None:
        typer.echo("log: there is none whose events could bring the viewer back")
    else:
        with _noted(failures):
            asyncio.run(_after(settings, viewer, position))
    _print_what_remains(settings)
    return failures


@contextmanager
def _noted(failures: list[str]) -> Iterator[None]:
    try:
        yield
    except VireoError as error:
        failures.append(str(error))


def _say_to_backups(viewer: str, at: int) -> None:
    """Have restores of backups leave the viewer out; last, since a backup knows what is done."""
    if BackupSettings.named():
        bucket = Bucket(BackupSettings.load())
        bucket.make()
        store_tombstone(bucket, viewer, at)
        typer.echo("backups: a restore of any leaves the viewer out")


def erase_again(home: Home, settings: EventLogSettings, erased: Mapping[str, int]) -> None:
    """Erase viewers from what was restored, by when they were erased: from its log and data sets.

    Raises:
        VireoError: they can't be erased everywhere.
    """
    failures: list[str] = []
    asyncio.run(_record(settings, erased))
    asyncio.run(_delete_letters(settings, range(settings.event_partitions), erased))
    _erase_from_files(home, erased, None, failures)
    if failures:
        raise VireoError(f"not erased everywhere; mend this and repeat it: {'; '.join(failures)}")


def _erase_from_files(
    home: Home, viewers: Collection[str], names: list[str] | None, failures: list[str]
) -> None:
    for folder in _folders([home], "data", names):
        with _noted(failures):
            rows = erase_from_dataset(home, folder.name, viewers)
            _say(folder, f"{rows:,} rows removed" if rows else "")
    for kind, below in (("features", ""), ("runs", "checkpoints")):
        for folder in _folders((home, home.measuring), kind, names):
            with _noted(failures):
                rows = erase_from_tables(folder / below, viewers)
                _say(folder, f"{rows:,} rows removed from tables" if rows else "")
    for each in (home, home.measuring):
        for kind in ("data", "features"):
            remove_abandoned_drafts(each.root / kind)


def _folders(homes: Sequence[Home], kind: str, names: list[str] | None) -> Iterator[Path]:
    """Yield the folders of data sets, features or runs; of some data sets alone if `names` are."""
    for home in homes:
        for found in sorted((home.root / kind).glob(f"[!.]*/{_MARKS[kind]}")):
            if not names or found.parent.name in names:
                yield found.parent


async def _record(settings: EventLogSettings, erased: Mapping[str, int]) -> int:
    """Record in the log who is erased, and when, Unix nanoseconds; return the last position."""
    position = 0
    try:
        async with opened_log(settings) as event_log:
            for viewer, at in erased.items():
                message = log_pb2.RecordedEvents(erased=[viewer])
                message.received_at.FromNanoseconds(at)
                key = str(partition_of(viewer, settings.event_partitions))
                position = await event_log.append(EVENTS, key, message.SerializeToString())
            return position
    except LogAwayError as error:
        raise NoAnswerError(
            f"{error}; without the log's word its events would bring the viewer back: start the "
            "stack with vireo up, and repeat this"
        ) from error


async def _archive_place(settings: EventLogSettings, viewer: str) -> list[str]:
    """Return the archive as a place that may have something of a viewer, if there is one."""
    key = f"{ARCHIVED}events.{partition_of(viewer, settings.event_partitions)}"
    async with opened_log(settings, read_only=True) as event_log:
        with suppress(LogAwayError):  # nothing says whether there is one
            return ["the archive"] if await event_log.end(STATE, key) else []
    return []


async def _after(settings: EventLogSettings, viewer: str, position: int) -> None:
    """Wait for the consumer, then delete the viewer's events that were set aside."""
    partition = partition_of(viewer, settings.event_partitions)
    async with opened_log(settings) as event_log:
        key = f"{ARCHIVED}events.{partition}"
        archived = await event_log.end(STATE, key) > 0
        before = Position(position - 1, (await event_log.describe(EVENTS))["created"])

        def rewrote(told: bytes) -> bool:
            return Position.parse(told.decode()).follows(before)

        passed, rewritten = await asyncio.gather(
            _passed(event_log, partition, position),
            _comes(event_log, key, BEGIN, rewrote) if archived else asyncio.sleep(0),
        )
    typer.echo(f"log: erased at position {position} of partition {partition}")
    await _delete_letters(settings, [partition], [viewer])
    if not passed:
        typer.echo(
            f"log: no consumer came to it within {_CONSUMER_SECONDS:g} s; once one runs it drops "
            "what was recorded before. Repeat this then, for what it sets aside until it does"
        )
    if archived:
        if not rewritten:
            raise NoAnswerError(
                f"the archive isn't rewritten within {_CONSUMER_SECONDS:g} s; the consumer does it "
                "as soon as it runs and S3 is there"
            )
        typer.echo("archive: rewritten without it")


async def _delete_letters(
    settings: EventLogSettings, partitions: Iterable[int], viewers: Collection[str]
) -> None:
    """Delete viewers' events that were set aside, which a replay would bring back."""
    async with opened_log(settings) as event_log:
        letters = await dead_letters(event_log, map(str, partitions))
        own = [each for each in letters if any(one.viewer_id in viewers for one in each.events)]
        if own:  # the last that was replayed may be among them
            others = [letter for letter in letters if letter.replayed and letter not in own]
            await mark_replayed(event_log, others)
        for letter in own:
            await event_log.delete(DEAD, letter.place.sequence)
    if own:
        typer.echo(f"log: {len(own):,} messages of events that had been set aside deleted")


async def _passed(event_log: JetStreamLog, partition: int, position: int) -> bool:
    """Return whether the consumer of a partition comes past a position in time.

    What it told before isn't read: that may be a position in a log that was replaced.
    """

    def passed(told: bytes) -> bool:
        return ConsumerProgress.FromString(told).position >= position

    end = Position(await event_log.end(STATE))
    return await _comes(event_log, f"{PROGRESS}{partition}", end, passed)


async def _comes(
    event_log: JetStreamLog, key: str, after: Position, wanted: Callable[[bytes], bool]
) -> bool:
    """Return whether a message of a key of STATE that is wanted comes in time."""
    reading = event_log.read(STATE, key, after)
    try:
        async with asyncio.timeout(_CONSUMER_SECONDS), aclosing(reading) as some:
            async for entries in some:
                if any(wanted(entry.data) for entry in entries):
                    return True
    except TimeoutError:
        pass
    return False


def _say(folder: Path, what: str) -> None:
    typer.echo(f"{folder}: {what or 'nothing of this viewer'}")


def _print_what_remains(settings: EventLogSettings | None) -> None:
    remains = list[str]()
    if settings is not None:
        days = settings.event_retention / _DAY
        remains += [
            "in the log the events themselves, slates that aren't archived, and the id with this "
            f"erasure, until they are {days:g} days old; nothing reads them any more",
            "slates that wait in a gateway (vireo_slates_waiting_bytes): repeat this once none do",
            "copies of the archive: what vireo archive fetch has downloaded, and former versions "
            "of its files if the bucket keeps them",
        ]
    remains += [
        "releases, and models and reports below runs/: they learned from this viewer among "
        "others; train and publish anew to replace them",
        "what commands that run now have read before: repeat this when builds of features, "
        "trainings and vireo data from-events have ended",
        "gateways' memory of rows, until they are read again or an hour old; their logs",
    ]
    if not BackupSettings.named():
        remains.append(
            "backups, if there are any: name their bucket by VIREO_BACKUP_S3_ENDPOINT and repeat "
            "this, so that none brings the viewer back"
        )
    remains.append(
        "files that you import, and data sets elsewhere: those made from this log lose the "
        "viewer with their next vireo data from-events"
    )
    typer.echo("\n- ".join(["what remains:", *remains]))
