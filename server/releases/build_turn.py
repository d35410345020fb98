"""Pods of a machine build their releases one after another, which leaves cores for requests."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from server.releases.download import try_lock

LOCK = "build.lock"
_LOOK_SECONDS = 0.02
_REST_SECONDS = 0.05
_MAX_WAIT_SECONDS = 10.0
"""A pod then builds without a turn: the one before it may hang."""


@asynccontextmanager
async def build_turn(cache: Path) -> AsyncIterator[None]:
    """Wait until no other pod that shares the cache is building, for at most ten seconds.

    It then pauses a moment: requests that another pod's building delayed go first.
    """
    file = await asyncio.to_thread(_lock_file, cache)
    if file is None:
        yield
        return
    with file:
        end = time.monotonic() + _MAX_WAIT_SECONDS
        while not try_lock(file) and time.monotonic() < end:  # noqa: ASYNC110 (other processes')
            # Random each time, so that pods that began to wait together don't retry together.
            await asyncio.sleep(random.uniform(_LOOK_SECONDS, 2 * _LOOK_SECONDS))  # noqa: S311
        await asyncio.sleep(_REST_SECONDS)
        yield


def _lock_file(cache: Path) -> BinaryIO | None:
    """Return the file to lock; None if the cache can't be written: then there are no turns."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        return (cache / LOCK).open("ab")
    except OSError:
        return None
