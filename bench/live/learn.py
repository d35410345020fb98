"""What learning from slates costs, what of it is lost, and whether slates can be made again."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from bench.live.stack import LiveStack
from bench.load import Answer, SteadyLoad, beside, closed_load, for_each
from bench.rows import Figures, Row
from bench.site import event
from bench.stack import counted, cpu_seconds
from tests.builders.filters import random_expression
from vireo.server.errors import VireoError
from vireo.server.gateway.slate_log import in_share
from vireo.training.evaluation.replay import Difference
from vireo.training.evaluation.viewer_skew import OfflineViewers, not_comparable, viewer_difference
from vireo.v1 import event_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.catalog_pb2 import Video

SHARE = 0.5
"""Share of the viewers who are recorded while costs are compared."""
_ROUNDS, _SECONDS = (7, 1), (8.0, 1.0)
"""Rounds of loads while costs are compared, and length of each; the second is the short form, here
and below."""
_CALLERS = 4
_SLATES, _RATE = (200_000, 100), (60.0, 40.0)
"""Slates that are asked for while consumer, log and S3 are killed, and a second."""
_CALM = (10.0, 1.5)
"""Seconds between two kills, and between two swaps."""
_COMPARED, _REPLAYED = (100_000, 200), (10_800, 100)
"""Slates whose viewers' features are computed again, and those of them that are made again, but for
some without candidates."""
_EVENT_RATE = 50.0
"""Events a second meanwhile."""
_FILTERED = 0.3
"""Share of the replayed requests that have a filter, a seed video, or a further page."""
_SHOWN = 5
"""Differences that are printed."""
_SETTLED_SECONDS = 4.0
"""Seconds after a load in which its slates are archived."""
_REPLAY_SECONDS = 3600.0


async def measure_cost(live: LiveStack) -> list[Row]:
    """Compare the processor time of slates that are recorded with that of others, in one stack."""
    figures, plan = Figures(live.console), live.plan
    groups = {
        wanted: [each for each in live.viewers if in_share(each, SHARE) == wanted]
        for wanted in (True, False)
    }
    pid = live.stack.state().pid  # which has started the others

    async def cost(group: list[str]) -> float:
        used = cpu_seconds(pid)
        answers = await closed_load(live.edge, group, _CALLERS, plan.of(*_SECONDS))
        await asyncio.sleep(_SETTLED_SECONDS)
        return (cpu_seconds(pid) - used) / len(answers)

    for number in figures.rounds(plan.of(*_ROUNDS)):
        order = (True, False) if number % 2 else (False, True)
        costs = {recorded: await cost(groups[recorded]) for recorded in order}
        ratio = costs[True] / costs[False]
        figures.add("CPU of a recorded slate, over one that isn't", ratio, plan.judged(1.1))
        figures.add("CPU of a slate that isn't recorded, ms", 1000 * costs[False])
    return figures.rows()


async def measure_lost(live: LiveStack) -> list[Row]:
    """Count slates that are answered and not archived while what stores them is killed."""
    answers = await _asked(live)
    ports = live.stack.pod_ports("gateway", "slate")
    dropped = (await counted(ports))["vireo_slates_dropped_total"]
    answered = sum(not each.failure for each in answers)
    files = await live.stack.archived("slates", int(answered - dropped))
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
    known = [pq.read_metadata(file) for file in files]
    groups = [each.row_group(number) for each in known for number in range(each.num_row_groups)]
    size = sum(
        column.total_compressed_size
        for column in (each.column(place) for each in groups for place in range(each.num_columns))
        if not column.path_in_schema.startswith("viewer_features")
    )
    return float(size / max(1, sum(each.num_rows for each in known)))


async def _asked(live: LiveStack) -> list[Answer]:
    """Return the answers to a steady load while the consumer, the log and S3 are killed in turn."""
    rate = live.plan.of(*_RATE)

    async def killed() -> None:
        for name in itertools.cycle(("consumer-1", "log", "s3")):
            await asyncio.sleep(live.plan.of(*_CALM))
            await live.stack.kill([name])

    load = SteadyLoad(live.edge, live.viewers, rate, deadline=10.0)
    async with beside(killed()), load:
        await asyncio.sleep(live.plan.of(*_SLATES) / rate)
    await live.stack.until_healthy()
    return load.answers


async def measure_replay(live: LiveStack) -> list[Row]:
    """Make slates again that were answered amid swaps, events, upserts, takedowns and filters.

    And compute their viewers' features again.
    """
    plan, stack, console = live.plan, live.stack, live.console
    await _asked_amid_changes(live)
    slates = await stack.archived("slates", plan.of(*_COMPARED))
    events = await stack.archived("events", 1)
    differing = _skewed(stack.home.features(live.dataset), slates, events)
    sample = str(plan.of(*_REPLAYED))
    command = ("replay", "--last", "6h", "--sample", sample, "--json")
    done = await stack.vireo(*command, seconds=_REPLAY_SECONDS)
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


async def _asked_amid_changes(live: LiveStack) -> None:
    """Ask for slates with and without filters and pages, while all that they depend on changes."""
    calm = live.plan.of(*_CALM)

    async def swapped() -> None:
        for number in itertools.count(1):
            await asyncio.sleep(calm)
            await live.stack.promote(live.stack.releases[number % 2])

    async def ask(number: int) -> None:
        draw = random.Random(number)  # noqa: S311
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

    async def changed() -> None:
        draw = random.Random(1)  # noqa: S311
        for number in itertools.count():
            await asyncio.sleep(calm / 10)
            tags = draw.sample(sorted(live.tags[draw.choice(live.videos)]) or ["none"], 1)
            name = draw.choice([f"new-{number}", f"new-{number // 2}", draw.choice(live.videos)])
            await site.upsert([Video(video_id=name, title=name, tags=tags)])
            if draw.random() < _FILTERED:
                await site.remove([draw.choice(live.videos)])

    flow = live.flow(_EVENT_RATE)
    async with live.site() as site, flow, beside(swapped()), beside(changed()):
        await for_each(range(live.plan.of(*_COMPARED)), ask, _CALLERS)
    await live.stack.until_healthy()
