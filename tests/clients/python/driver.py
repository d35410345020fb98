"""Asks a stack by both clients and prints what each got: run in the client's own environment.

`python driver.py HOST:PORT VIEWER`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from vireo_client import AsyncClient, Client, InvalidRequest, NotFound, Slate, Surface

TIMEOUT = 60.0  # for a busy machine


async def as_document(recommend: Callable[..., Awaitable[Slate]], viewer: str) -> dict[str, Any]:
    """What one client gets of a stack."""
    slate = await recommend(viewer, page_size=20, explain=True)
    assert slate.explanation is not None
    first = slate.items[0].video_id
    without = await recommend(viewer, page_size=20, excluded_video_ids=[first])
    following = await recommend(viewer, surface=Surface.UP_NEXT, seed_video_id=first)
    found: dict[str, Any] = {
        "slate": [item.video_id for item in slate.items],
        "scores": [item.score for item in slate.items],
        "titles": [item.title for item in slate.items],
        "release": slate.release_id,
        "degradations": slate.degradations,
        "history": slate.explanation.history_length,
        "without_first": [item.video_id for item in without.items],
        "up_next": [item.video_id for item in following.items],
    }
    try:
        await recommend("", page_size=0)
    except InvalidRequest as error:
        found["InvalidRequest"] = sorted(each.field for each in error.violations)
    try:
        await recommend(
            "1", surface=Surface.UP_NEXT, seed_video_id="nowhere", request_id="driver-id"
        )
    except NotFound as error:
        found["NotFound"] = error.request_id
    return found


async def main(target: str, viewer: str) -> None:
    """Call with both clients."""
    found = {}
    async with AsyncClient(target, timeout=TIMEOUT) as client:
        found["AsyncClient"] = await as_document(client.recommend, viewer)
    with Client(target, timeout=TIMEOUT) as blocking:

        async def recommend(*asked: Any, **how: Any) -> Slate:
            return await asyncio.to_thread(blocking.recommend, *asked, **how)

        found["Client"] = await as_document(recommend, viewer)
    sys.stdout.write(json.dumps(found))


asyncio.run(main(*sys.argv[1:]))
