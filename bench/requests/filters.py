"""Random filters on random requests while pods are killed: no answer has a forbidden video."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

from bench.beside import beside
from bench.live.site import Site, ids, opened_site
from bench.live.stack import LiveStack
from bench.requests.catalogue import Catalogue
from bench.requests.faults import pods_killed
from bench.requests.plan import RequestsPlan
from bench.speed.row import Row
from vireo.server.home import Home
from vireo.server.recommend.filters.expression import BadFilterError, decode
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2

_SIZES = (10, 50, 200, 500)
_MAX_PAGES = 4
_MAX_EXCLUDED = 20


@dataclass
class _Counts:
    positions: int = 0
    forbidden: int = 0
    repeated: int = 0
    short: int = 0
    """Undegraded pages with fewer videos than there were."""
    degradations: Counter[viewer_pb2.Degradation.ValueType] = field(default_factory=Counter)
    empty: int = 0
    slates: int = 0
    degraded: int = 0


async def measure_filters(live: LiveStack, home: Home, plan: RequestsPlan) -> list[Row]:
    """Compare every position of many slates with its filter, by the data set's own columns."""
    catalogue = Catalogue.load(home, live.dataset, random.Random(1))  # noqa: S311
    counts = _Counts()

    async def ask(site: Site, number: int) -> None:
        draw = random.Random(number)  # noqa: S311
        while counts.positions < plan.positions:
            await _ask(site, catalogue, draw, counts)

    async with (
        opened_site(live.edge, plan.patience) as site,
        beside(pods_killed(live, plan)),
        asyncio.TaskGroup() as callers,
    ):
        for number in range(plan.callers):
            callers.create_task(ask(site, number))
    await live.healthy()
    return [
        Row(f"forbidden videos in {counts.positions} positions", counts.forbidden, bound=0),
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


async def _ask(site: Site, catalogue: Catalogue, draw: random.Random, counts: _Counts) -> None:
    """Ask for the pages of one slate of a viewer without a history."""
    wanted = catalogue.random_filter(draw)
    try:
        expression = decode(wanted, "filter", catalogue.declared)
    except BadFilterError:  # by chance it contradicts itself
        return
    every = [*catalogue.videos]
    request = pb.RecommendRequest(
        viewer_id=f"nobody-{draw.randrange(1 << 30)}",
        page_size=draw.choice(_SIZES),
        filter=wanted,
        excluded_video_ids=draw.sample(every, draw.randrange(_MAX_EXCLUDED)),
    )
    left = catalogue.allowed(expression).difference(request.excluded_video_ids)
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
        counts.forbidden += sum(each not in allowed for each in shown)
        counts.repeated += sum(each in allowed and each not in left for each in shown)
        if not slate.degradations:
            counts.short += len(shown) < min(len(left), request.page_size)
        left.difference_update(shown)
        request.page_token = slate.next_page_token
        if not request.page_token:
            return
