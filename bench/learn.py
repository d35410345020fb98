"""What learning from slates costs, what of it is lost, and whether slates can be made again."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console

from bench.live.stack import LivePlan, LiveStack, live_stack
from bench.load import Answer, SteadyLoad, beside, closed_load
from bench.process import counted, cpu_seconds
from bench.rows import Figures, Row, attempted
from bench.simulate import FULL, SimulationPlan, simulate
from bench.simulate import SHORT as SHORT_LOOP
from bench.site import Site, event
from bench.stack import Stack, linked_home
from tests.builders.filters import random_expression
from vireo.ops.cli.own_stack import VIREO
from vireo.ops.stack.state import Layout
from vireo.server.errors import VireoError
from vireo.server.gateway.slate_log import in_share
from vireo.server.home import Home
from vireo.training.evaluation.replay import Difference
from vireo.training.evaluation.viewer_skew import OfflineViewers, not_comparable, viewer_difference
from vireo.training.features.watches import load_watches
from vireo.v1 import event_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.catalog_pb2 import Video

PARTS = ("cost", "lost", "replay", "biased", "neutral")
"""In the order in which they are measured."""
_SHARE = 0.5
"""Share of the viewers who are recorded while costs are compared."""
_CALLERS = 4
_FILTERED = 0.3
"""Share of the replayed requests that have a filter, a seed video, or a further page."""
_FEW = 100
_SHOWN = 5
"""Differences that are printed."""
_ARCHIVE_SECONDS = 2.0
_SETTLED_SECONDS = 4.0
"""Seconds after a load in which its slates are archived."""


@dataclass(frozen=True)
class LearnPlan:
    """How much of each measurement there is. All times in seconds."""

    layout: Layout = "separate"
    timed: bool = True
    """Whether processor times are judged."""
    rounds: int = 7
    seconds: float = 8.0
    """Length of each load."""
    slates: int = 200_000
    """Slates that are asked for while consumer, log and S3 are killed."""
    rate: float = 60.0
    """Slates a second meanwhile."""
    calm: float = 10.0
    """Pause between two kills, and between two swaps."""
    compared: int = 100_000
    """Slates whose viewers' features are computed again."""
    replayed: int = 10_500
    """Slates of these that are made again, but for some without candidates."""
    loop: SimulationPlan = FULL
    """How long each world is simulated."""


SHORT = LearnPlan(
    timed=False,
    rounds=1,
    seconds=1.0,
    slates=200,
    rate=40.0,
    calm=1.5,
    compared=200,
    replayed=200,
    loop=SHORT_LOOP,
)
"""For CI: everything once and briefly; no time is judged."""


def measure(
    home: Home, dataset: str, plan: LearnPlan, console: Console, parts: Collection[str]
) -> Iterator[Row]:
    """Yield each figure when it is there; what couldn't be measured is a row that doesn't hold.

    Raises:
        VireoError: a stack can't be set up or started.
    """
    steps = {
        "cost": partial(_measure_cost, home, dataset, plan, console),
        "lost": partial(_measure_lost, home, dataset, plan),
        "replay": partial(_measure_replay, home, dataset, plan, console),
        **{world: partial(simulate, home, world, plan.loop, console) for world in plan.loop.worlds},
    }
    for name in parts:
        yield from attempted(console, name, steps[name])


def _stack(home: Home, dataset: str, plan: LearnPlan, share: float) -> Stack:
    settings = {
        "VIREO_LAYOUT": plan.layout,
        "VIREO_SLATE_SHARE": str(share),
        "VIREO_ARCHIVE_SECONDS": str(_ARCHIVE_SECONDS),
    }
    own = linked_home(home, "learn")
    return Stack.of(own, home.trained_release(dataset), settings=settings)


def _viewers(home: Home, dataset: str) -> list[str]:
    """Return a data set's viewers, and strangers if they are few."""
    known = [str(each) for each in load_watches(home, dataset)["viewer_id"].drop_duplicates()]
    return known + [f"stranger-{number}" for number in range(_FEW - len(known))]


def _measure_cost(home: Home, dataset: str, plan: LearnPlan, console: Console) -> list[Row]:
    """Compare the processor time of slates that are recorded with that of others, in one stack."""
    figures = Figures(console)
    viewers = _viewers(home, dataset)
    groups = {
        wanted: [each for each in viewers if in_share(each, _SHARE) == wanted]
        for wanted in (True, False)
    }
    with _stack(home, dataset, plan, _SHARE).running() as stack:
        pid = stack.state().pid  # which has started the others

        def cost(group: list[str]) -> float:
            used = cpu_seconds(pid)
            load = closed_load(stack.settings.edge, group, _CALLERS, plan.seconds)
            answers = asyncio.run(load)
            asyncio.run(asyncio.sleep(_SETTLED_SECONDS))
            return (cpu_seconds(pid) - used) / len(answers)

        for number in figures.rounds(plan.rounds):
            order = (True, False) if number % 2 else (False, True)
            costs = {recorded: cost(groups[recorded]) for recorded in order}
            bound = 1.1 if plan.timed else None
            ratio = costs[True] / costs[False]
            figures.add("CPU of a recorded slate, over one that isn't", ratio, bound)
            figures.add("CPU of a slate that isn't recorded, ms", 1000 * costs[False])
    return figures.rows()


def _measure_lost(home: Home, dataset: str, plan: LearnPlan) -> list[Row]:
    """Count slates that are answered and not archived while what stores them is killed."""
    stack = _stack(home, dataset, plan, 1.0)
    with stack.running():
        answers = asyncio.run(_asked(stack, _viewers(home, dataset), plan))
        ports = [pod.port for pod in stack.pods() if pod.name.startswith(("gateway", "slate"))]
        dropped = asyncio.run(counted(ports))["vireo_slates_dropped_total"]
        answered = sum(not each.failure for each in answers)
        files = asyncio.run(stack.archived("slates", int(answered - dropped)))
    ids = Counter[str]()
    for file in files:
        ids.update(pq.read_table(file, columns=["request_id"])["request_id"].to_pylist())
    size = sum(file.stat().st_size for file in files)
    return [
        Row("slates answered while consumer, log and S3 are killed in turn", answered),
        Row("slates that failed meanwhile", len(answers) - answered),
        Row("slates lost", answered - dropped - len(ids), bound=0),
        Row("slates dropped, and counted", dropped, bound=0),
        Row("slates archived twice", sum(ids.values()) - len(ids), bound=0),
        Row("archive: bytes a slate, with viewers' rows", size / max(1, len(ids))),
        Row("archive: bytes a slate, without", _bytes_without(files), bound=6000),
    ]


def _bytes_without(files: list[Path]) -> float:
    """Return the compressed bytes a slate, but for viewers' rows."""
    size, rows = 0, 0
    for file in files:
        metadata = pq.read_metadata(file)
        rows += metadata.num_rows
        for group in range(metadata.num_row_groups):
            columns = metadata.row_group(group)
            for number in range(columns.num_columns):
                column = columns.column(number)
                if not column.path_in_schema.startswith("viewer_features"):
                    size += column.total_compressed_size
    return size / max(1, rows)


async def _asked(stack: Stack, viewers: list[str], plan: LearnPlan) -> list[Answer]:
    """Return the answers to a steady load while the consumer, the log and S3 are killed in turn."""

    async def killed() -> None:
        for name in itertools.cycle(("consumer-1", "log", "s3")):
            await asyncio.sleep(plan.calm)
            await stack.kill([name])

    load = SteadyLoad(stack.settings.edge, viewers, plan.rate, deadline=10.0)
    until_then = time.monotonic() + plan.slates / plan.rate
    async with beside(killed()), load:
        await asyncio.sleep(until_then - time.monotonic())
    await stack.until_healthy()
    return load.answers


def _measure_replay(home: Home, dataset: str, plan: LearnPlan, console: Console) -> list[Row]:
    """Make slates again that were answered amid swaps, events, upserts, takedowns and filters.

    And compute their viewers' features again.
    """
    settings = {"VIREO_SLATE_SHARE": "1", "VIREO_ARCHIVE_SECONDS": str(_ARCHIVE_SECONDS)}
    live_plan = LivePlan(rate=50.0, layout=plan.layout)
    with live_stack(home, dataset, live_plan, console, "replay", settings) as live:
        asyncio.run(_asked_amid_changes(live, plan))
        slates = asyncio.run(live.stack.archived("slates", plan.compared))
        events = asyncio.run(live.stack.archived("events", 1))
        differing = _skewed(live.stack.home.features(dataset), slates, events)
        command = ["replay", "--last", "6h", "--sample", str(plan.replayed), "--json"]
        done = subprocess.run(
            [*VIREO, *command], env=live.stack.environment, capture_output=True, text=True
        )
    if not done.stdout:
        raise VireoError(f"vireo replay says nothing: {done.stderr[-500:]}")
    told = json.loads(done.stdout)
    skipped = sum(told["skipped"].values())
    for each in told["differences"][:_SHOWN]:
        console.print(f"differs: {each}")
    for found in [each for each in differing if each is not None][:_SHOWN]:
        console.print(f"differs: {found}")
    return [
        Row("slates made again, as they were", told["equal"]),
        Row("slates that differ", len(told["differences"]), bound=0),
        Row("slates that are the same within rounding alone", told["near"], bound=0),
        Row("slates that can't be made again", skipped),
        Row("slates whose viewer's features were computed again", len(differing)),
        Row("of them with other features", sum(each is not None for each in differing), bound=0),
    ]


def _skewed(repo: Path, slates: Sequence[Path], events: Sequence[Path]) -> list[Difference | None]:
    """Return how the viewers of comparable slates differ from what is computed offline."""
    columns = [pq.read_table(file, columns=["viewer_id"])["viewer_id"] for file in slates]
    names = {name for column in columns for name in column.to_pylist()}
    viewers, found = OfflineViewers(repo, events, names), list[Difference | None]()
    for file in slates:
        for row in pq.read_table(file).to_pylist():
            if not not_comparable(row, viewers):
                found.append(viewer_difference(row, viewers))
    return found


async def _asked_amid_changes(live: LiveStack, plan: LearnPlan) -> None:
    """Ask for slates with and without filters and pages, while all that they depend on changes."""
    asked = itertools.count()

    async def swapped() -> None:
        for number in itertools.count(1):
            await asyncio.sleep(plan.calm)
            await live.stack.promote(live.stack.releases[number % 2])

    async def ask(site: Site, draw: random.Random) -> None:
        while next(asked) < plan.compared:
            viewer = draw.choice(live.viewers)
            request = pb.RecommendRequest(viewer_id=viewer, page_size=draw.choice((5, 10, 20)))
            if draw.random() < _FILTERED:
                labels, numbers = live.catalogue.labels, live.catalogue.numbers
                request.filter.CopyFrom(random_expression(draw, labels, numbers)[0])
            if draw.random() < _FILTERED:
                request.surface = pb.SURFACE_UP_NEXT
                request.seed_video_id = draw.choice(live.videos)
            slate = await site.recommend(request)
            if slate.next_page_token and draw.random() < _FILTERED:
                request.page_token = slate.next_page_token
                await site.recommend(request)
            for item in slate.items[:1]:
                play = event(uuid.uuid4().hex, viewer, event_pb2.EVENT_KIND_PLAY, item.video_id)
                await site.record([play])

    async def changed(site: Site) -> None:
        draw = random.Random(1)  # noqa: S311
        for number in itertools.count():
            await asyncio.sleep(plan.calm / 10)
            tags = draw.sample(sorted(live.tags[draw.choice(live.videos)]) or ["none"], 1)
            name = draw.choice([f"new-{number}", f"new-{number // 2}", draw.choice(live.videos)])
            await site.upsert([Video(video_id=name, title=name, tags=tags)])
            if draw.random() < _FILTERED:
                await site.remove([draw.choice(live.videos)])

    async with (
        live.site() as site,
        live.flow(),
        beside(swapped()),
        beside(changed(site)),
        asyncio.TaskGroup() as callers,
    ):
        for number in range(_CALLERS):
            callers.create_task(ask(site, random.Random(number)))  # noqa: S311
    await live.stack.until_healthy()
