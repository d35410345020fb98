"""Slates that must keep to what requests say, while pods are killed and releases are swapped.

Random filters: no answer has a forbidden video. Page after page: nothing comes twice. And what an
explanation costs.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import cycle, islice

import grpc.aio
import numpy as np

from bench.live.stack import LiveStack
from bench.load import beside
from bench.requests.plan import RequestsPlan
from bench.rows import Row
from bench.site import Site, event, ids
from tests.builders.filters import random_expression
from vireo.server.home import Home
from vireo.server.recommend.filters.declared import CREATOR, label
from vireo.training.data.dataset import load_dataset
from vireo.training.data.schema import all_attributes, attribute_column
from vireo.v1 import event_pb2, recommendation_pb2_grpc, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb

_COMMON = 200
"""Labels that filters are made of: the commonest, and as many at random."""
_SIZES = (10, 50, 200, 500)
_MAX_PAGES = 4
_MAX_EXCLUDED = 20
_KINDS = ("candidate", "ranking", "gateway")
_PAGE = 10
_PLAYS_EVERY = 5
"""Pages after which a viewer plays a video, which must not come again either."""
_MAX_EXPLAINED = 3.0
_ROUNDS = 5
_CALL_SECONDS = 10.0


@dataclass(frozen=True)
class Catalogue:
    """What a data set says of its videos."""

    videos: Mapping[str, tuple[frozenset[str], Mapping[str, float]]]
    """Labels, each "attribute=value", and numbers of each video by its id."""
    labels: Mapping[str, Sequence[str]]
    """Values to make filters of, by attribute."""
    numbers: Mapping[str, Sequence[float]]
    """Numbers to make bounds of, by attribute."""

    @staticmethod
    def load(home: Home, dataset: str) -> Catalogue:
        """Read a data set's videos; raise VireoError if there is none."""
        loaded = load_dataset(home, dataset)
        declared = all_attributes(loaded.info.attributes)
        columns = {name: attribute_column(name) for name in (*declared.labels, *declared.numbers)}
        videos = {}
        for row in loaded.video_columns("video_id", *columns.values()).to_pylist():
            labels, numbers = set[str](), dict[str, float]()
            for name in declared.labels:
                values = row.get(columns[name]) or ()
                texts = [values] if name == CREATOR else values
                labels.update(label(name, each) for each in texts if each)
            for name in declared.numbers:
                value = row.get(columns[name])
                value = value.timestamp() if isinstance(value, datetime) else value
                if value is not None and np.isfinite(value):
                    numbers[name] = value
            videos[str(row["video_id"])] = (frozenset(labels), numbers)
        return Catalogue(videos, *_values(videos))


def _values(
    videos: Mapping[str, tuple[frozenset[str], Mapping[str, float]]],
) -> tuple[dict[str, list[str]], dict[str, list[float]]]:
    """Return values of labels, and numbers, by attribute."""
    counts = Counter(each for labels, _ in videos.values() for each in labels)
    ordered = [each for each, _ in counts.most_common()]
    rare = ordered[_COMMON:]
    chosen = ordered[:_COMMON] + random.Random(1).sample(rare, min(_COMMON, len(rare)))  # noqa: S311
    labels: dict[str, list[str]] = {}
    for name, _, value in (each.partition("=") for each in chosen):
        labels.setdefault(name, []).append(value)
    numbers: dict[str, list[float]] = {}
    for _, known in videos.values():
        for name, number in known.items():
            numbers.setdefault(name, []).append(number)
    return labels, numbers


async def _pods_killed(live: LiveStack, plan: RequestsPlan) -> None:
    """Kill -9 pods until cancelled: one at a time, and now and then all of an inner kind."""
    draw = random.Random(7)  # noqa: S311
    for number in itertools.count():
        await asyncio.sleep(plan.calm)
        kind = _KINDS[number % len(_KINDS)]
        names = live.stack.names(kind)
        every = kind != "gateway" and number % 2 == 0  # without a gateway nothing answers
        await live.kill(names if every else [draw.choice(names)])


async def _swapped_and_killed(live: LiveStack, plan: RequestsPlan) -> None:
    """Promote the stack's releases in turn and kill -9 a pod after each, until cancelled."""
    draw, releases = random.Random(8), live.stack.releases  # noqa: S311
    for number in itertools.count(1):
        await live.stack.promote(releases[number % len(releases)], live.plan.patience)
        await live.kill([draw.choice(live.stack.names(*_KINDS))])
        await asyncio.sleep(plan.calm)


@dataclass
class _Counts:
    slates: int = 0
    positions: int = 0
    wrong: int = 0
    """Forbidden videos."""
    repeated: int = 0
    short: int = 0
    """Pages with fewer videos than there were; of filtered ones, undegraded."""
    degraded: int = 0
    degradations: Counter[viewer_pb2.Degradation.ValueType] = field(default_factory=Counter)
    empty: int = 0


async def measure_filters(live: LiveStack, home: Home, plan: RequestsPlan) -> list[Row]:
    """Compare every position of many slates with its filter, by the data set's own columns."""
    catalogue, counts = Catalogue.load(home, live.dataset), _Counts()

    async def ask(site: Site, number: int) -> None:
        draw = random.Random(number)  # noqa: S311
        while counts.positions < plan.positions:
            await _ask_filtered(site, catalogue, draw, counts)

    async with (
        live.site() as site,
        beside(_pods_killed(live, plan)),
        asyncio.TaskGroup() as callers,
    ):
        for number in range(plan.callers):
            callers.create_task(ask(site, number))
    await live.stack.until_healthy(live.plan.patience)
    return [
        Row(f"forbidden videos in {counts.positions} positions", counts.wrong, bound=0),
        Row("videos that a later page of a filtered slate repeats", counts.repeated, bound=0),
        Row("filtered pages with fewer videos than there are", counts.short, bound=0),
        Row(
            "share of filtered slates that were degraded",
            counts.degraded / max(1, counts.slates),
            bound=plan.max_degraded,
        ),
        Row("filtered slates", counts.slates),
        *(
            Row(f"filtered slates that declare {viewer_pb2.Degradation.Name(kind)}", count)
            for kind, count in sorted(counts.degradations.items())
        ),
        Row("filtered slates without a video", counts.empty),
    ]


async def _ask_filtered(
    site: Site, catalogue: Catalogue, draw: random.Random, counts: _Counts
) -> None:
    """Ask for the pages of one slate of a viewer without a history."""
    wanted, expression = random_expression(draw, catalogue.labels, catalogue.numbers)
    every = [*catalogue.videos]
    request = pb.RecommendRequest(
        viewer_id=f"nobody-{draw.randrange(1 << 30)}",
        page_size=draw.choice(_SIZES),
        filter=wanted,
        excluded_video_ids=draw.sample(every, draw.randrange(_MAX_EXCLUDED)),
    )
    left = {each for each, known in catalogue.videos.items() if expression.holds(*known)}
    left.difference_update(request.excluded_video_ids)
    if draw.random() < 0.5:
        request.surface = pb.SURFACE_UP_NEXT
        request.seed_video_id = draw.choice(every)
        left.discard(request.seed_video_id)
    allowed = frozenset(left)
    for _ in range(draw.randrange(1, _MAX_PAGES + 1)):
        slate = await site.recommend(request)
        shown = ids(slate)
        counts.slates += 1
        counts.positions += len(shown)
        counts.empty += not shown
        counts.degraded += bool(slate.degradations)
        counts.degradations.update(slate.degradations)
        counts.wrong += sum(each not in allowed for each in shown)
        counts.repeated += sum(each in allowed and each not in left for each in shown)
        if not slate.degradations:
            counts.short += len(shown) < min(len(left), request.page_size)
        left.difference_update(shown)
        request.page_token = slate.next_page_token
        if not request.page_token:
            return


async def measure_pages(live: LiveStack, plan: RequestsPlan) -> list[Row]:
    """Follow the pages of many viewers."""
    counts = _Counts()
    waiting = iter([f"reader-{number}" for number in range(plan.viewers)])
    async with live.site() as site:
        async with beside(_swapped_and_killed(live, plan)), asyncio.TaskGroup() as callers:
            for _ in range(2 * plan.callers):
                callers.create_task(_read(site, waiting, plan.pages, counts))
        retried = len(site.refusals)
    await live.stack.until_healthy(live.plan.patience)
    return [
        Row(f"videos that came twice within {plan.pages} pages", counts.repeated, bound=0),
        Row("pages that were not full", counts.short, bound=0),
        Row("pages that failed", counts.slates - plan.viewers * plan.pages, bound=0),
        Row("pages that were asked for again, since a gateway died", retried),
        Row("degraded pages", counts.degraded),
    ]


async def _read(site: Site, waiting: Iterator[str], pages: int, counts: _Counts) -> None:
    for viewer in waiting:
        request = pb.RecommendRequest(viewer_id=viewer, page_size=_PAGE)
        seen = set[str]()
        for number in range(pages):
            slate = await site.recommend(request)
            shown = ids(slate)
            counts.slates += 1
            counts.degraded += bool(slate.degradations)
            counts.short += len(shown) < _PAGE
            counts.repeated += len(shown) - len({*shown} - seen)
            seen.update(shown)
            request.page_token = slate.next_page_token
            if number % _PLAYS_EVERY == 0 and shown:
                play = f"{viewer}-{number}"
                await site.record([event(play, viewer, event_pb2.EVENT_KIND_PLAY, shown[0])])


async def measure_explain(live: LiveStack, plan: RequestsPlan) -> list[Row]:
    """Measure the median of explanations of random videos over that of slates."""
    draw, ratios = random.Random(1), []  # noqa: S311
    async with grpc.aio.insecure_channel(live.edge) as channel:
        stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        for _ in range(_ROUNDS):
            slates, explained = list[float](), list[float]()
            for viewer in islice(cycle(live.viewers), max(1, plan.viewers // _ROUNDS)):
                request = pb.RecommendRequest(viewer_id=viewer, page_size=_PAGE)
                begun = time.perf_counter()
                await stub.Recommend(request, timeout=_CALL_SECONDS)
                slates.append(time.perf_counter() - begun)
                asked = pb.ExplainVideoRequest(request=request, video_id=draw.choice(live.videos))
                begun = time.perf_counter()
                await stub.ExplainVideo(asked, timeout=_CALL_SECONDS)
                explained.append(time.perf_counter() - begun)
            ratios.append(float(np.median(explained) / np.median(slates)))
    bound = _MAX_EXPLAINED if plan.timed else None
    return [Row.over_rounds("explanations over slates, p50", ratios, bound)]
