"""`vireo events`: see what is recorded, what couldn't be applied, and record it again."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from rich.console import Console

from vireo.ops.cli.json_lines import in_batches, messages_in
from vireo.ops.cli.options import (
    CaOption,
    JsonOption,
    TargetOption,
    TokenOption,
    YesOption,
    confirm,
)
from vireo.ops.cli.output import (
    print_json,
    print_table,
    printable,
    progress_bar,
    remark,
    table_of,
)
from vireo.ops.edge import edge_of
from vireo.ops.stack.nats import reachable_log
from vireo.server.errors import NoAnswerError
from vireo.server.event_log.jetstream import EVENT_KINDS, JetStreamLog, opened_log
from vireo.server.event_log.log import (
    BEGIN,
    CATALOG,
    DEAD,
    EVENTS,
    REPLAYED,
    STATE,
    STREAMS,
    Entry,
    LogAwayError,
    Position,
    Stream,
)
from vireo.server.event_log.streams import Limits
from vireo.server.home import Home
from vireo.v1 import event_pb2, log_pb2
from vireo.v1.event_pb2_grpc import EventServiceStub

app = typer.Typer(no_args_is_help=True)
T = TypeVar("T")

_BATCH = 500
"""Number of events that are appended together."""
_SECONDS = 10.0
"""Deadline of a call that records some."""
_CONCURRENT = 4
"""Number of such batches at a time."""


@app.command()
def tail(
    viewer: Annotated[
        str, typer.Argument(metavar="VIEWER", help="The viewer whose events to print, if one.")
    ] = "",
    begin: Annotated[
        bool, typer.Option("--begin", help="Begin with the oldest event that is kept.")
    ] = False,
    follow: Annotated[bool, typer.Option(help="Wait for further events, until Ctrl-C.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Print events as they are recorded; with --json a line each, as `record` takes them.

    vireo events tail 1 --begin --no-follow
    """
    console = Console(highlight=False)

    def show(event: event_pb2.Event) -> None:
        if viewer not in ("", event.viewer_id):
            return
        if as_json:
            document = MessageToDict(event)
            line = json.dumps(document, ensure_ascii=False)
            # Without characters that a terminal obeys.
            typer.echo(line if line.isprintable() else json.dumps(document))
        else:
            console.print(_line(event), markup=False, soft_wrap=True)

    async def show_partition(event_log: JetStreamLog, key: str) -> None:
        after = BEGIN if begin else Position(await event_log.end(EVENTS, key))
        async for entries in event_log.read(EVENTS, key, after):
            if not entries and not follow:
                return
            for entry in entries:
                try:
                    recorded = log_pb2.RecordedEvents.FromString(entry.data)
                except DecodeError:
                    _note_unreadable(entry)
                    continue
                for event in recorded.events:
                    show(event)

    async def show_all(event_log: JetStreamLog) -> None:
        async with asyncio.TaskGroup() as readers:
            for key in _partitions():
                readers.create_task(show_partition(event_log, key))

    _with_log(show_all)


@app.command("list-dead")
def list_dead(as_json: JsonOption = False) -> None:
    """List the events that couldn't be applied to features, and why.

    vireo events list-dead
    """
    letters = _with_log(lambda event_log: dead_letters(event_log, _partitions()))
    if as_json:
        described = [
            {
                "position": letter.content.position,
                "at": letter.content.at.ToJsonString(),
                "reason": letter.content.reason,
                "replayed": letter.replayed,
                "events": [MessageToDict(event) for event in letter.events] or None,
            }
            for letter in letters
        ]
        print_json(described)
        return
    if not letters:
        typer.echo("all events were applied")
        return
    titles = ("position", "set aside", "events", "replayed", "reason")
    table = table_of(*titles, numbers=("position", "events"), texts={"reason"})
    for letter in letters:
        table.add_row(
            str(letter.content.position),
            letter.content.at.ToJsonString(),
            str(len(letter.events) or ""),
            "yes" if letter.replayed else "",
            printable(letter.content.reason),
        )
    print_table(table)
    if not all(letter.replayed for letter in letters):
        remark("once the reason is mended: vireo events replay-dead")


_Rate = Annotated[float, typer.Option(min=0, help="Maximum events a second; 0 for no limit.")]


@app.command()
def replay(
    data: Annotated[
        str,
        typer.Option("--data", metavar="NAME", help="The data set.", show_default=False),
    ],
    rate: _Rate = 0,
    as_json: JsonOption = False,
) -> None:
    """Record the interactions of a data set in the log, at their own times.

    It writes to the log itself, without a gateway, whose bounds on times don't hold. Each event
    counts once, however often it is replayed.

    vireo events replay --data ml-100k --rate 1000
    """
    _replayed(partial(_replay_data, data=data, rate=rate), as_json)


@app.command("replay-dead")
def replay_dead(rate: _Rate = 0, as_json: JsonOption = False) -> None:
    """Record events that were set aside in the log again, once the reason is mended.

    What was set aside is replayed once.

    vireo events replay-dead
    """
    _replayed(partial(_replay_dead, rate=rate), as_json)


def _replayed(replay: Callable[[JetStreamLog], Awaitable[int]], as_json: bool) -> None:
    began = time.monotonic()
    recorded = _with_log(replay)
    seconds = time.monotonic() - began
    if as_json:
        print_json({"recorded": recorded, "seconds": seconds})
    else:
        typer.echo(f"recorded {recorded:,} events in {seconds:.1f} s")


@app.command()
def record(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Events as JSON, one a line; - for input.")
    ],
    as_json: JsonOption = False,
    target: TargetOption = "",
    ca: CaOption = None,
    token: TokenOption = "",
) -> None:
    """Record events of a file through the edge, as a site does; what is repeated counts once.

    A line is an event as REST takes it, for example
    {"kind": "EVENT_KIND_PLAY", "viewerId": "1", "videoId": "50"}. Without a time it happens now.
    An event has an eventId; without one it gets one that follows from what the line says, so that
    a file that is recorded again counts once.

    vireo events record events.jsonl
    """
    events = messages_in(file, event_pb2.Event)
    for event in events:
        event.event_id = event.event_id or _id_of(event)
    with edge_of(target, ca, token).calls(EventServiceStub, "vireo.events") as service:
        for some in in_batches(events, "events", _BATCH):
            service.RecordEvents(event_pb2.RecordEventsRequest(events=some), timeout=_SECONDS)
    if as_json:
        print_json({"recorded": len(events)})
    else:
        typer.echo(f"recorded {len(events):,} events; those that the log had already count once")


def _id_of(event: event_pb2.Event) -> str:
    """Return an id that the same event has again."""
    return hashlib.sha256(event.SerializeToString(deterministic=True)).hexdigest()[:32]


@app.command()
def limits(
    apply: Annotated[
        bool,
        typer.Option("--apply", help="Set those of the settings, even if that deletes messages."),
    ] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show how full the log's streams are, and for how long they keep messages.

    Consumers set the limits of the settings (VIREO_EVENT_RETENTION, VIREO_EVENT_MAX_BYTES,
    VIREO_SLATE_MAX_BYTES and VIREO_EVENT_REPLICAS) when they start, unless that would delete
    something.

    vireo events limits
    """
    if apply:
        confirm("set the limits of the settings, and delete what is beyond them?", yes=yes)

    async def described(event_log: JetStreamLog) -> list[dict[str, Any]]:
        # Without recorded slates there is no such stream.
        there = [each for each in STREAMS if not each.consumed or await event_log.end(each)]
        return [await event_log.describe(stream) for stream in there]

    found = [
        {
            "stream": info["config"]["name"],
            "messages": info["state"]["messages"],
            "bytes": info["state"]["bytes"],
            "since": info["state"]["first_ts"] if info["state"]["messages"] else None,
            "maxBytes": max(0, info["config"]["max_bytes"]),
            "maxSeconds": info["config"]["max_age"] / 1e9,
            "replicas": info["config"]["num_replicas"],
        }
        for info in _with_log(described, "force" if apply else "keep")
    ]
    if as_json:
        print_json(found)
        return
    for each in found:
        since = f" since {each['since']}" if each["since"] else ""
        most = f" of {each['maxBytes']:,}" if each["maxBytes"] else ""
        seconds, servers = each["maxSeconds"], each["replicas"]
        length = f"{seconds / 86_400:g} days" if seconds >= 86_400 else f"{seconds:g} s"
        typer.echo(
            f"{each['stream']}: {each['messages']:,} messages{since}; {each['bytes']:,} bytes"
            f"{most}; kept{f' for {length}' if seconds else ''} by {servers} "
            f"server{'s' if servers > 1 else ''}"
        )


def _with_log(work: Callable[[JetStreamLog], Awaitable[T]], limits: Limits = "keep") -> T:
    """Return what `work` returns for the log of the settings, or of this home's stack.

    Raises:
        VireoError: the log is away.
    """

    async def run() -> T:
        async with opened_log(reachable_log(), limits=limits) as event_log:
            await event_log.end(CATALOG)
            return await work(event_log)

    try:
        return asyncio.run(run())
    except LogAwayError as error:
        raise NoAnswerError(f"{error}; is the stack up? Start it with: vireo up") from error


async def _replay_data(event_log: JetStreamLog, data: str, rate: float) -> int:
    """Record a data set's events; return their number."""
    from vireo.training.data.dataset import load_dataset
    from vireo.training.data.log_events import interaction_events

    interactions = load_dataset(Home.current(), data).interactions
    events = interaction_events(data, interactions)
    return await _record(event_log, events, len(interactions), rate, again=False)


async def _replay_dead(event_log: JetStreamLog, rate: float) -> int:
    """Record what was set aside since the last time, each event once; return their number."""
    letters = [each for each in await dead_letters(event_log, _partitions()) if not each.replayed]
    events = {(event.viewer_id, event.event_id): event for each in letters for event in each.events}
    recorded = await _record(event_log, iter(events.values()), len(events), rate, again=True)
    # Only now: what fails before is replayed once more.
    await mark_replayed(event_log, letters)
    return recorded


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

    partitions = len(_partitions())
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


def _line(event: event_pb2.Event) -> str:
    """Return an event as one line."""
    kind = EVENT_KINDS.get(event.kind, str(event.kind))
    parts = [event.time.ToJsonString(), f"{kind:14}", event.viewer_id]
    parts.append(event.creator if event.kind == event_pb2.EVENT_KIND_FOLLOW else event.video_id)
    if event.HasField("watched_seconds"):
        parts.append(f"{event.watched_seconds:g} s")
    if event.HasField("watched_fraction"):
        parts.append(f"{event.watched_fraction:.0%}")
    if event.position:
        parts.append(f"at {event.position}")
    return printable("  ".join([*parts, event.locale]).rstrip())


def _partitions() -> list[str]:
    """Return the keys of EVENTS and DEAD."""
    return [str(partition) for partition in range(reachable_log().event_partitions)]


@dataclass(frozen=True)
class Letter:
    """A message of stream DEAD."""

    content: log_pb2.DeadEvents
    events: Sequence[event_pb2.Event]
    """The events that were set aside; none if they can't be parsed."""
    partition: str
    place: Position
    """Its position in DEAD; `content.position` is that of its events in the log."""
    replayed: bool


async def dead_letters(event_log: JetStreamLog, partitions: Iterable[str]) -> list[Letter]:
    """Return what is in DEAD, each partition's in order; name on stderr what can't be read."""
    letters = []
    for key in partitions:
        told = await _all_of(event_log, STATE, REPLAYED + key)
        replayed = Position.parse(told[-1].data.decode()) if told else BEGIN
        # Those of a log that was replaced since are none of this one.
        last = (await event_log.resume(DEAD, replayed)).after
        for entry in await _all_of(event_log, DEAD, key):
            events: Sequence[event_pb2.Event] = ()
            try:
                content = log_pb2.DeadEvents.FromString(entry.data)
            except DecodeError:
                _note_unreadable(entry)
                continue
            with suppress(DecodeError):
                events = log_pb2.RecordedEvents.FromString(content.recorded).events
            again = entry.sequence <= last
            letters.append(Letter(content, events, key, entry.position, again))
    return letters


async def mark_replayed(event_log: JetStreamLog, letters: Iterable[Letter]) -> None:
    """Remember in the log that these letters, and those before them, were replayed."""
    for partition, place in {each.partition: each.place for each in letters}.items():
        await event_log.append(STATE, REPLAYED + partition, str(place).encode())


def _note_unreadable(entry: Entry) -> None:
    """Say on stderr that a message is left out."""
    typer.echo(f"the message at position {entry.sequence} can't be read: left out", err=True)


async def _all_of(event_log: JetStreamLog, stream: Stream, key: str) -> list[Entry]:
    """Return the messages of a key that are there now."""
    return [entry async for some in event_log.up_to_end(stream, key) for entry in some]
