"""`vireo events`: see what is recorded, what couldn't be applied, and record it again."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from clients.cli.output import AsJson, only_warnings, print_json
from clients.cli.tables import print_table, table_of
from server.errors import VireoError
from server.home import Home

if TYPE_CHECKING:
    from vireo.v1 import event_pb2, log_pb2

    from server.event_log.log import EventLog, Stream

app = typer.Typer(no_args_is_help=True)

_BATCH = 500
"""Number of events that are appended together."""
_CONCURRENT = 4
"""Number of such batches at a time."""


@app.command()
def tail(
    viewer: Annotated[str, typer.Option(help="Only events of this viewer.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON each.")] = False,
    begin: Annotated[
        bool, typer.Option("--begin", help="Begin with the oldest event that is kept.")
    ] = False,
    follow: Annotated[bool, typer.Option(help="Wait for further events, until Ctrl-C.")] = True,
) -> None:
    """Print events as they are recorded."""
    asyncio.run(_tail(viewer, as_json=as_json, begin=begin, follow=follow))


async def _tail(viewer: str, *, as_json: bool, begin: bool, follow: bool) -> None:
    from google.protobuf.json_format import MessageToDict
    from vireo.v1 import log_pb2

    from server.event_log.log import EVENTS

    console = Console(highlight=False)
    async with _opened_log() as event_log:
        after = 0 if begin else await event_log.end(EVENTS)
        async for entries in event_log.read(EVENTS, after=after):
            if not entries and not follow:
                return
            for entry in entries:
                for event in log_pb2.RecordedEvents.FromString(entry.data).events:
                    if viewer and event.viewer_id != viewer:
                        continue
                    if as_json:
                        typer.echo(json.dumps(MessageToDict(event), ensure_ascii=False))
                    else:
                        console.print(_line(event), markup=False, soft_wrap=True)


@app.command()
def dead(as_json: AsJson = False) -> None:
    """List the events that couldn't be applied to features, and why."""
    letters = asyncio.run(_dead_letters())
    if as_json:
        print_json([_described(letter) for letter in letters])
        return
    table = table_of(
        "position",
        "set aside",
        "events",
        "reason",
        numbers=("position", "events"),
        texts={"reason"},
    )
    for letter in letters:
        described = _described(letter)
        count = "" if described["events"] is None else str(len(described["events"]))
        table.add_row(str(letter.position), described["at"], count, letter.reason)
    print_table(table)
    if letters:
        typer.echo("once the reason is mended: vireo events replay --dead")


@app.command()
def replay(
    dead: Annotated[
        bool, typer.Option("--dead", help="Events that were set aside, once the reason is mended.")
    ] = False,
    data: Annotated[
        str, typer.Option(help="The interactions of this data set, at their own times.")
    ] = "",
    rate: Annotated[float, typer.Option(min=0, help="Maximum events a second; 0 for none.")] = 0,
) -> None:
    """Record events in the log once more: of a data set, or those that were set aside.

    It writes to the log itself, without a gateway, whose bounds on times don't hold. Each event
    counts once, however often it is replayed.
    """
    if dead == bool(data):
        raise typer.BadParameter("say either --dead or --data NAME")
    recorded, seconds = asyncio.run(_replay(data, rate))
    typer.echo(f"recorded {recorded:,} events in {seconds:.1f} s")


async def _replay(data: str, rate: float) -> tuple[int, float]:
    """Record what is to be replayed; return the number of events and the seconds that it took."""
    async with _opened_log() as event_log:
        if data:
            events, total = _events_of(data)
        else:
            listed = [event for each in await _dead_letters(event_log) for event in _parsed(each)]
            events, total = iter(listed), len(listed)
        began = time.monotonic()
        recorded = await _record(event_log, events, total, rate, again=not data)
        return recorded, time.monotonic() - began


def _events_of(name: str) -> tuple[Iterator[event_pb2.Event], int]:
    """Return a data set's events and their number."""
    from training.data.as_events import interaction_events
    from training.data.dataset import load_dataset

    interactions = load_dataset(Home.current(), name).interactions
    return interaction_events(name, interactions), len(interactions)


async def _record(
    event_log: EventLog, events: Iterator[event_pb2.Event], total: int, rate: float, *, again: bool
) -> int:
    """Append events to the log; return their number.

    Args:
        event_log: the log.
        events: what to append.
        total: their number, for the progress.
        rate: maximum events a second; 0 for none.
        again: whether to append what the log has already.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from server.gateway.events import messages

    partitions = _log_settings().event_partitions
    began, recorded = time.monotonic(), 0

    async def append(some: list[event_pb2.Event]) -> None:
        for stream, key, content, once in messages(some, partitions, time.time_ns()):
            await event_log.append(stream, key, content, "" if again else once)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("events", total=total)
        while window := list(islice(events, _BATCH * _CONCURRENT)):
            batches = [window[begin : begin + _BATCH] for begin in range(0, len(window), _BATCH)]
            await asyncio.gather(*map(append, batches))
            recorded += len(window)
            bar.advance(task, len(window))
            if rate:
                await asyncio.sleep(max(0, began + recorded / rate - time.monotonic()))
    return recorded


async def _dead_letters(event_log: EventLog | None = None) -> list[log_pb2.DeadEvents]:
    from vireo.v1 import log_pb2

    from server.event_log.log import DEAD

    if event_log is None:
        async with _opened_log() as opened:
            return await _dead_letters(opened)
    return [log_pb2.DeadEvents.FromString(data) async for data in _all_of(event_log, DEAD)]


async def _all_of(event_log: EventLog, stream: Stream) -> AsyncIterator[bytes]:
    async for entries in event_log.read(stream):
        if not entries:
            return
        for entry in entries:
            yield entry.data


def _parsed(letter: log_pb2.DeadEvents) -> list[event_pb2.Event]:
    """Return the events that were set aside; none if they can't be parsed."""
    from google.protobuf.message import DecodeError
    from vireo.v1 import log_pb2

    try:
        return list(log_pb2.RecordedEvents.FromString(letter.recorded).events)
    except DecodeError:
        return []


def _described(letter: log_pb2.DeadEvents) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict

    return {
        "position": letter.position,
        "at": letter.at.ToJsonString(),
        "reason": letter.reason,
        "events": [MessageToDict(event) for event in _parsed(letter)] or None,
    }


def _line(event: event_pb2.Event) -> str:
    """Return an event as one line."""
    from vireo.v1 import event_pb2

    kind = event_pb2.EventKind.Name(event.kind).removeprefix("EVENT_KIND_").lower()
    parts = [event.time.ToJsonString(), f"{kind:14}", event.viewer_id]
    parts.append(event.creator if event.kind == event_pb2.EVENT_KIND_FOLLOW else event.video_id)
    if event.HasField("watched_seconds"):
        parts.append(f"{event.watched_seconds:g} s")
    if event.HasField("watched_fraction"):
        parts.append(f"{event.watched_fraction:.0%}")
    if event.position:
        parts.append(f"at {event.position}")
    return "  ".join([*parts, event.locale]).rstrip()


def _log_settings() -> Any:
    from server.stack.nats import reachable_log
    from server.stack.settings import StackSettings

    return reachable_log(StackSettings.load())


@asynccontextmanager
async def _opened_log() -> AsyncIterator[EventLog]:
    """Open the log of the settings, or of this home's stack; raise VireoError if it is away."""
    from server.event_log.log import EVENTS, LogAwayError
    from server.event_log.open import open_log

    only_warnings()
    event_log = open_log(_log_settings())
    assert event_log is not None, "the settings name it"
    try:
        await event_log.end(EVENTS)
        yield event_log
    except LogAwayError as error:
        raise VireoError(f"{error}; is the stack up? Start it with: vireo up") from error
    finally:
        await event_log.close()
