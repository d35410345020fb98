"""Page after page of many viewers, while releases swap and pods die: nothing comes twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc
from pydantic import SecretStr

from bench.beside import beside
from bench.live.site import RefusedError, Site, event, ids, opened_site
from bench.live.stack import LiveStack
from bench.requests.faults import swapped_and_killed
from bench.requests.plan import RequestsPlan
from bench.speed.row import Row
from vireo.ops.stack.page_keys import page_token_keys
from vireo.server.gateway.page_token import MAX_AGE_SECONDS, PageTokens, signing_keys
from vireo.v1 import event_pb2
from vireo.v1 import recommendation_pb2 as pb

_PAGE = 10
_PLAYS_EVERY = 5
"""Pages after which a viewer plays a video, which must not come again either."""


@dataclass
class _Counts:
    pages: int = 0
    repeated: int = 0
    short: int = 0
    degraded: int = 0


async def measure_pages(live: LiveStack, plan: RequestsPlan) -> list[Row]:
    """Follow the pages of many viewers, and offer tokens that continue nothing."""
    counts = _Counts()
    waiting = iter([f"reader-{number}" for number in range(plan.viewers)])
    async with opened_site(live.edge, plan.patience) as site:
        wrong = await _accepted(site, live)
        async with beside(swapped_and_killed(live, plan)), asyncio.TaskGroup() as callers:
            for _ in range(2 * plan.callers):
                callers.create_task(_read(site, waiting, plan.pages, counts))
        retried = site.repeated
    await live.healthy()
    return [
        Row(f"videos that came twice within {plan.pages} pages", counts.repeated, bound=0),
        Row("pages that were not full", counts.short, bound=0),
        Row("pages that failed", counts.pages - plan.viewers * plan.pages, bound=0),
        Row("pages that were asked for again, since a gateway died", retried),
        Row("degraded pages", counts.degraded),
        Row("bad page tokens that were accepted", wrong, bound=0),
    ]


async def _read(site: Site, waiting: Iterator[str], pages: int, counts: _Counts) -> None:
    for viewer in waiting:
        request = pb.RecommendRequest(viewer_id=viewer, page_size=_PAGE)
        seen = set[str]()
        for number in range(pages):
            slate = await site.recommend(request)
            shown = ids(slate)
            counts.pages += 1
            counts.degraded += bool(slate.degradations)
            counts.short += len(shown) < _PAGE
            counts.repeated += len(shown) - len({*shown} - seen)
            seen.update(shown)
            request.page_token = slate.next_page_token
            if number % _PLAYS_EVERY == 0 and shown:
                play = f"{viewer}-{number}"
                await site.record([event(play, viewer, event_pb2.EVENT_KIND_PLAY, shown[0])])


async def _accepted(site: Site, live: LiveStack) -> int:
    """Return how many of some tokens were accepted that continue nothing."""
    first = pb.RecommendRequest(viewer_id="reader", page_size=_PAGE)
    slate = await site.recommend(first)
    token = slate.next_page_token
    keys = signing_keys(SecretStr(page_token_keys(live.stack.settings)))
    long_ago = PageTokens(keys, lambda: time.time() - MAX_AGE_SECONDS - 60)
    stranger = PageTokens({"home": b"?" * 32})
    # `issue` changes its request.
    old, foreign = (each.issue(_with(first, ""), b"", ids(slate)) for each in (long_ago, stranger))
    requests = [_with(first, each) for each in (*_spoilt(token), old, foreign)]
    requests.append(_with(first, token, viewer_id="somebody"))
    requests.append(_with(first, token, surface=pb.SURFACE_UP_NEXT, seed_video_id=ids(slate)[0]))
    requests.append(_with(first, token, excluded_video_ids=ids(slate)[:1]))
    return sum([not await _refused(site, each) for each in requests])


def _spoilt(token: str) -> Sequence[str]:
    middle = len(token) // 2
    other = "A" if token[middle] != "A" else "B"
    return [token[:-1], token[:middle], token + "A", token[:middle] + other + token[middle + 1 :]]


def _with(request: pb.RecommendRequest, token: str, **changes: object) -> pb.RecommendRequest:
    changed = pb.RecommendRequest(page_token=token, **changes)  # type: ignore[arg-type]
    merged = pb.RecommendRequest()
    merged.CopyFrom(request)
    merged.MergeFrom(changed)
    return merged


async def _refused(site: Site, request: pb.RecommendRequest) -> bool:
    try:
        await site.recommend(request)
    except RefusedError as error:
        return error.code is grpc.StatusCode.INVALID_ARGUMENT and "page_token" in str(error)
    return False
