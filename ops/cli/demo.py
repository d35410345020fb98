"""`vireo demo`: from an empty home to a slate of real videos, in one command."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections.abc import Sequence
from itertools import cycle
from typing import Annotated, get_args

import grpc.aio
import typer
from rich.console import Console

from vireo.ops.cli import data, train, up
from vireo.ops.cli.evaluate import show_measured
from vireo.ops.cli.own_stack import served_release
from vireo.ops.cli.recommend import ask, print_slate
from vireo.ops.cli.release.promote import publish
from vireo.ops.edge import edge_of
from vireo.ops.stack.ports import check_ports_free
from vireo.ops.stack.settings import StackSettings
from vireo.ops.stack.stack import needed_ports
from vireo.ops.stack.state import Layout, StackState, running_stack
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.releases.promotion import PromotionRefusedError
from vireo.training.features.watches import load_watches
from vireo.training.run import measuring_home
from vireo.v1 import event_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.event_pb2_grpc import EventServiceStub
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

DATASET = "ml-100k"
PROFILE = "demo"
VIEWER = "1"
_RECORDING = {"VIREO_SLATE_SHARE": "1", "VIREO_ARCHIVE_SECONDS": "10"}
"""Variables of a stack that records all slates and archives them soon, unless others are set."""
_PLAYED = 3
_CALLERS, _SPEED_SECONDS = 8, 5.0
_EFFECT_SECONDS, _POLL_SECONDS = 10.0, 0.1
"""Maximum seconds until events show in a slate, usually less than one; and between two looks."""


def demo(
    once: Annotated[
        bool, typer.Option("--once", help="Stop after the slates instead of staying up.")
    ] = False,
    speed: Annotated[
        bool | None,
        typer.Option(
            help="Measure slates a second in both layouts, which takes a minute; by default the "
            "first time, unless --once.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Fetch MovieLens-100K, train, publish, serve, and show two slates: one follows events.

    Each step is a command of its own, shown as it runs. Steps that an earlier demo finished are
    skipped.

    vireo demo --once
    """
    console = Console(highlight=False)
    if running_stack(Home.current()) is None:  # before minutes of training
        check_ports_free(needed_ports(StackSettings.load()))
    for name, value in _RECORDING.items():
        os.environ.setdefault(name, value)
    first = not (Home.current().staged_release(DATASET) / "manifest.json").exists()

    def announce(command: str) -> None:
        console.print(f"\n[bold green]$[/] [bold]vireo {command}[/]")

    announce(f"data fetch {DATASET}")
    data.fetch(DATASET)
    announce(f"train --data {DATASET} --profile {PROFILE}")
    train.train(DATASET, PROFILE)
    show_measured(DATASET)
    announce(f"release publish --data {DATASET}")
    try:
        publish(DATASET)
    except PromotionRefusedError as error:
        raise PromotionRefusedError(
            f"{error}; to run the demo separately, set VIREO_HOME to another folder"
        ) from error

    measured = first and not once if speed is None else speed
    rates = _measured_rates(console) if measured else {}

    def ready(state: StackState) -> None:
        announce(f"recommend {VIEWER}")
        _show_slate_and_events(console)
        for layout, rate in rates.items():
            console.print(f"{layout}: {rate:.0f} slates a second on this machine")
        if once:
            # The stack's own handler stops it, as on Ctrl-C.
            signal.raise_signal(signal.SIGINT)
        else:
            up.show_endpoints(state)

    announce("up")
    up.run_stack_in_terminal(ready)
    typer.echo("stopped; everything is kept, so the next demo trains nothing")


def _measured_rates(console: Console) -> dict[str, float]:
    """Return how many slates a second some callers get in each layout, from stacks of their own."""
    home, rates = measuring_home(Home.current()), {}
    viewers = load_watches(home, DATASET)["viewer_id"].drop_duplicates().tolist()
    for layout in get_args(Layout):
        console.print(f"\nmeasuring slates a second, services {layout} (skip it with --no-speed)")
        try:
            with served_release(home, DATASET, {"VIREO_LAYOUT": layout}) as edge:
                rates[layout] = asyncio.run(_rate(edge, viewers))
        except (VireoError, grpc.aio.AioRpcError) as error:
            # Declared policy: the demo serves all the same.
            console.print(f"it can't be measured now: {error}")
    return rates


async def _rate(edge: str, viewers: Sequence[str]) -> float:
    """Return how many slates a second callers get who ask for one after the other."""
    count, ends = 0, time.monotonic() + _SPEED_SECONDS
    names = cycle(viewers)

    async def caller(stub: RecommendationServiceStub) -> None:
        nonlocal count
        while time.monotonic() < ends:
            request = pb.RecommendRequest(viewer_id=next(names), page_size=10)
            await stub.Recommend(request, timeout=_EFFECT_SECONDS)  # type: ignore[misc]
            count += 1

    async with grpc.aio.insecure_channel(edge) as channel:
        stub = RecommendationServiceStub(channel)
        await asyncio.gather(*(caller(stub) for _ in range(_CALLERS)))
    return count / _SPEED_SECONDS


def _show_slate_and_events(console: Console) -> None:
    """Show a slate, record what the viewer does with it, and show the slate that follows."""
    before = _slate()
    print_slate(before)
    videos = {item.video_id: item.title for item in before.items}
    *played, hidden = list(videos)[: _PLAYED + 1]
    console.print(f"\n[bold]viewer {VIEWER} plays three of them, and hides one[/]")
    for video_id in played:
        console.print(f"  play  {videos[video_id]}", markup=False)
    console.print(f"  hide  {videos[hidden]}", markup=False)
    began = time.monotonic()
    _record(played, hidden, before.request_id)
    gone = {*played, hidden}
    after = _slate()
    while not gone.isdisjoint(item.video_id for item in after.items):
        if time.monotonic() - began > _EFFECT_SECONDS:
            raise VireoError(
                f"the slate didn't change within {_EFFECT_SECONDS:.0f} s; look into the log of "
                "consumer-1, or at its state: vireo status"
            )
        time.sleep(_POLL_SECONDS)
        after = _slate()
    console.print(f"\n[bold]the slate {time.monotonic() - began:.1f} s later[/]")
    print_slate(after)
    now = {item.video_id: item.title for item in after.items}
    others = "; ".join(videos[each] for each in videos if each not in now and each not in gone)
    new = "; ".join(now[each] for each in now if each not in videos)
    also = f", and {others}" if others else ""
    console.print(f"gone: what was played and hidden{also}; new: {new}", markup=False)


def _slate() -> pb.RecommendResponse:
    request = pb.RecommendRequest(viewer_id=VIEWER, page_size=10, explain=True)
    return ask(request, edge_of())


def _record(played: Sequence[str], hidden: str, request_id: str) -> None:
    """Record plays and a hide, as a site would that showed the slate of `request_id`.

    Raises:
        VireoError: they weren't recorded; the message says why.
    """
    kinds = [(video, event_pb2.EVENT_KIND_PLAY) for video in played]
    kinds.append((hidden, event_pb2.EVENT_KIND_HIDE))
    events = [
        event_pb2.Event(
            event_id=uuid.uuid4().hex,
            viewer_id=VIEWER,
            kind=kind,
            video_id=video_id,
            request_id=request_id,
            position=position,
        )
        for position, (video_id, kind) in enumerate(kinds, start=1)
    ]
    request = event_pb2.RecordEventsRequest(events=events)
    with edge_of().calls(EventServiceStub, "vireo.events") as service:
        service.RecordEvents(request, timeout=5)
