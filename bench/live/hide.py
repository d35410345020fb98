"""Hides: the video never comes back, and videos near to it are shown less."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.live.stack import LiveStack
from bench.rows import Row
from bench.site import Site, event, for_each, ids
from vireo.server.errors import VireoError
from vireo.server.releases.layout import CONTENT_VECTORS, VIDEO_IDS, VIDEO_KEYS
from vireo.server.releases.tables import read_ids
from vireo.v1 import event_pb2

_PAGE = 20
_AT_A_TIME = 4
_POLL = 0.05
_MAX_KEPT = 0.8
"""Maximum share of the nearest videos' places that is left to them."""
_NEAREST = 50


async def measure_hides(live: LiveStack, release: Path) -> list[Row]:
    """Let viewers hide the first video of their slate, and restart everything in between."""
    near, viewers = nearest(release), live.viewers
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}

    async def hide(site: Site, viewer: str) -> None:
        before[viewer] = shown = ids(await site.slate(viewer, _PAGE))
        hidden = event_pb2.EVENT_KIND_HIDE
        await site.record([event(f"hide-{viewer}", viewer, hidden, shown[0])])

    async def gone(site: Site, viewer: str) -> None:
        async with asyncio.timeout(live.plan.patience):
            while True:
                after[viewer] = ids(await site.slate(viewer, _PAGE))
                if before[viewer][0] not in after[viewer]:
                    return
                await asyncio.sleep(_POLL)

    came_back = 0

    async def look(site: Site, viewer: str) -> None:
        nonlocal came_back
        came_back += before[viewer][0] in ids(await site.slate(viewer, _PAGE))

    async def each(do: Callable[[Site, str], Awaitable[None]]) -> None:
        await for_each(live.edge, live.plan.patience, viewers, do, _AT_A_TIME)

    await each(hide)
    await each(gone)
    live.console.print("hides have their effect; restarting all that serves them")
    for kind in ("consumer", "gateway", "candidate", "ranking"):
        await live.kill(live.stack.names(kind))
        await each(look)
    share = [_near_share(near, before[each][0], before[each][1:]) for each in viewers]
    left = [_near_share(near, before[each][0], after[each]) for each in viewers]
    if not any(share):
        raise VireoError("no slate has videos near to its first")
    kept = float(np.mean(left) / np.mean(share))
    return [
        Row(f"hidden videos that came back, of {len(viewers)}", came_back, bound=0),
        Row("share of the videos nearest to a hidden one, before", float(np.mean(share))),
        Row("share of them that is left after the hide", kept, bound=_MAX_KEPT),
    ]


def _near_share(near: Mapping[str, frozenset[str]], hidden: str, slate: Sequence[str]) -> float:
    return sum(video in near.get(hidden, ()) for video in slate) / max(1, len(slate))


def nearest(release: Path, limit: int = _NEAREST) -> Mapping[str, frozenset[str]]:
    """Return the nearest videos of each of a release's, by the cosine of their content vectors."""
    keys = np.load(release / VIDEO_KEYS)
    texts = read_ids(release, VIDEO_IDS, keys)
    vectors = np.load(release / CONTENT_VECTORS).astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    rows = np.argpartition(cosines, -limit, axis=1)[:, -limit:].tolist()
    return {texts[row]: frozenset(texts[each] for each in near) for row, near in enumerate(rows)}
