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

from vireo.ops.cli.output import (
    AsJson,
    only_warnings,
    print_json,
    print_table,
    progress_bar,
    table_of,
)
from vireo.server.errors import VireoError
from vireo.server.home import Home

if TYPE_CHECKING:
    from vireo.ops.cli.dead_events import Letter
    from vireo.server.event_log.jetstream import JetStreamLog
    from vireo.server.event_log.log import Entry, Position
    from vireo.server.event_log.streams import Limits
    from vireo.v1 import event_pb2

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
    from google.protobuf.message import DecodeError

    from vireo.ops.cli.dead_events import note_unreadable
    from vireo.server.event_log.log import BEGIN, EVENTS, Position
    from vireo.v1 import log_pb2

    console = Console(highlight=False)

    def show(entry: Entry) -> None:
        try:
            recorded = log_pb2.RecordedEvents.FromString(entry.data)
        except DecodeError:
            note_unreadable(entry)
            return
        for event in recorded.events:
            if viewer and event.viewer_id != viewer:
                continue
            if as_json:
                typer.echo(_json_line(event))
            else:
                console.print(_line(event), markup=False, soft_wrap=True)

    async def show_partition(event_log: JetStreamLog, key: str, after: Position) -> None:
        async for entries in event_log.read(EVENTS, key, after):
            if not entries and not follow:
                return
            for entry in entries:
                show(entry)

    async with _opened_log() as event_log:
        keys = _partitions()
        starts = [BEGIN if begin else Position(await event_log.end(EVENTS, key)) for key in keys]
        async with asyncio.TaskGroup() as readers:
            for key, after in zip(keys, starts, strict=True):
                readers.create_task(show_partition(event_log, key, after))


@app.command()
def dead(as_json: AsJson = False) -> None:
    """List the events that couldn't be applied to features, and why."""
    letters = asyncio.run(_dead())
    if as_json:
        print_json([_described(letter) for letter in letters])
        return
    table = table_of(
        "position",
        "set aside",
        "events",
        "replayed",
        "reason",
        numbers=("position", "events"),
        texts={"reason"},
    )
    for letter in letters:
        described = _described(letter)
        count = "" if described["events"] is None else str(len(described["events"]))
        replayed = "yes" if letter.replayed else ""
        reason = _printable(letter.content.reason)
        table.add_row(str(letter.content.position), described["at"], count, replayed, reason)
    print_table(table)
    if not all(letter.replayed for letter in letters):
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
    counts once, however often it is replayed; what was set aside is replayed once.
    """
    if dead == bool(data):
        raise typer.BadParameter("say either --dead or --data NAME")
    recorded, seconds = asyncio.run(_replay(data, rate))
    typer.echo(f"recorded {recorded:,} events in {seconds:.1f} s")


@app.command()
def limits(
    apply: Annotated[
        bool,
        typer.Option("--apply", help="Set those of the settings, even if that deletes messages."),
    ] = False,
) -> None:
    """Show how full the log's streams are, and for how long they keep messages.

    Consumers set the limits of the settings (VIREO_EVENT_RETENTION, VIREO_EVENT_MAX_BYTES and
    VIREO_EVENT_REPLICAS) when they start, unless that would delete something.
    """
    for info in asyncio.run(_streams("force" if apply else "keep")):
        state, config = info["state"], info["config"]
        since = f" since {state['first_ts']}" if state["messages"] else ""
        most = f" of {config['max_bytes']:,}" if config["max_bytes"] > 0 else ""
        seconds, servers = config["max_age"] / 1e9, config["num_replicas"]
        length = f"{seconds / 86_400:g} days" if seconds >= 86_400 else f"{seconds:g} s"
        typer.echo(
            f"{config['name']}: {state['messages']:,} messages{since}; {state['bytes']:,} bytes"
            f"{most}; kept{f' for {length}' if seconds else ''} by {servers} "
            f"server{'s' if servers > 1 else ''}"
        )


async def _streams(limits: Limits) -> list[dict[str, Any]]:
    from vireo.server.event_log.log import STREAMS

    async with _opened_log(limits) as event_log:
        return [await event_log.describe(stream) for stream in STREAMS]


async def _replay(data: str, rate: float) -> tuple[int, float]:
    """Record what is to be replayed; return the number of events and the seconds that it took."""
    async with _opened_log() as event_log:
        began = time.monotonic()
        if data:
            events, total = _events_of(data)
            recorded = await _record(event_log, events, total, rate, again=False)
        else:
            recorded = await _replay_dead(event_log, rate)
        return recorded, time.monotonic() - began


async def _replay_dead(event_log: JetStreamLog, rate: float) -> int:
    """Record what was set aside since the last time, each event once; return their number."""
    from vireo.ops.cli.dead_events import dead_letters, mark_replayed

    letters = [each for each in await dead_letters(event_log, _partitions()) if not each.replayed]
    events = {(event.viewer_id, event.event_id): event for each in letters for event in each.events}
    recorded = await _record(event_log, iter(events.values()), len(events), rate, again=True)
    # Only now: what fails before is replayed once more.
    await mark_replayed(event_log, letters)
    return recorded


def _events_of(name: str) -> tuple[Iterator[event_pb2.Event], int]:
    """Return a data set's events and their number."""
    from vireo.training.data.as_events import interaction_events
    from vireo.training.data.dataset import load_dataset

    interactions = load_dataset(Home.current(), name).interactions
    return interaction_events(name, interactions), len(interactions)


async def _record(
    event_log: JetStreamLog,
    events: Iterator[event_pb2.Event],
    total: int,
    rate: float,
    *,
    again: bool,
) -> int:
    """Append events to the log; return their number.

    Args:
        event_log: the log.
        events: what to append.
        total: their number, for the progress.
        rate: maximum events a second; 0 for none.
        again: whether to append what the log has already.
    """
    from vireo.server.gateway.events import messages

    partitions = _log_settings().event_partitions
    began, recorded = time.monotonic(), 0

    async def append(some: list[event_pb2.Event]) -> None:
        for stream, key, content, once in messages(some, partitions, time.time_ns()):
            await event_log.append(stream, key, content, "" if again else once)

    with progress_bar("events", total) as show:
        while window := list(islice(events, _BATCH * _CONCURRENT)):
            batches = [window[begin : begin + _BATCH] for begin in range(0, len(window), _BATCH)]
            await asyncio.gather(*map(append, batches))
            recorded += len(window)
            show(recorded, total)
            if rate:
                await asyncio.sleep(max(0, began + recorded / rate - time.monotonic()))
    return recorded


async def _dead() -> list[Letter]:
    from vireo.ops.cli.dead_events import dead_letters

    async with _opened_log() as event_log:
        return await dead_letters(event_log, _partitions())


def _described(letter: Letter) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict

    return {
        "position": letter.content.position,
        "at": letter.content.at.ToJsonString(),
        "reason": letter.content.reason,
        "replayed": letter.replayed,
        "events": [MessageToDict(event) for event in letter.events] or None,
    }


def _json_line(event: event_pb2.Event) -> str:
    """Return an event as a line of JSON, without characters that a terminal obeys."""
    from google.protobuf.json_format import MessageToDict

    document = MessageToDict(event)
    line = json.dumps(document, ensure_ascii=False)
    return line if line.isprintable() else json.dumps(document)


def _printable(text: str) -> str:
    """Return a text without characters that a terminal would obey instead of showing them."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def _line(event: event_pb2.Event) -> str:
    """Return an event as one line."""
    from vireo.server.event_log.log import EVENT_KINDS
    from vireo.v1 import event_pb2

    kind = EVENT_KINDS.get(event.kind, str(event.kind))
    parts = [event.time.ToJsonString(), f"{kind:14}", event.viewer_id]
    parts.append(event.creator if event.kind == event_pb2.EVENT_KIND_FOLLOW else event.video_id)
    if event.HasField("watched_seconds"):
        parts.append(f"{event.watched_seconds:g} s")
    if event.HasField("watched_fraction"):
        parts.append(f"{event.watched_fraction:.0%}")
    if event.position:
        parts.append(f"at {event.position}")
    return _printable("  ".join([*parts, event.locale]).rstrip())


def _partitions() -> list[str]:
    """Return the keys of EVENTS and DEAD."""
    return [str(partition) for partition in range(_log_settings().event_partitions)]


def _log_settings() -> Any:
    from vireo.ops.stack.nats import reachable_log

    return reachable_log()


@asynccontextmanager
async def _opened_log(limits: Limits = "keep") -> AsyncIterator[JetStreamLog]:
    """Open the log of the settings, or of this home's stack; raise VireoError if it is away."""
    from vireo.server.event_log.jetstream import opened_log
    from vireo.server.event_log.log import CATALOG, LogAwayError

    only_warnings()
    try:
        async with opened_log(_log_settings(), limits=limits) as event_log:
            await event_log.end(CATALOG)
            yield event_log
    except LogAwayError as error:
        raise VireoError(f"{error}; is the stack up? Start it with: vireo up") from error
