"""Pods of a machine build their releases one after another, so that cores are left for answers."""

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
_LONGEST_SECONDS = 10.0
"""After so long a wait a pod builds all the same: the one before it may hang."""


@asynccontextmanager
async def build_turn(cache: Path) -> AsyncIterator[None]:
    """Waits until no other pod that shares the cache is in here, or for ten seconds.

    It rests a moment then: answers that another one's building held up go first.
    """
    file = _lock_file(cache)
    if file is None:
        yield
        return
    with file:
        end = time.monotonic() + _LONGEST_SECONDS
        while not try_lock(file) and time.monotonic() < end:  # noqa: ASYNC110 (other processes')
            # Drawn anew each time, so that pods that began to wait together don't look together.
            await asyncio.sleep(random.uniform(_LOOK_SECONDS, 2 * _LOOK_SECONDS))  # noqa: S311
        await asyncio.sleep(_REST_SECONDS)
        yield


def _lock_file(cache: Path) -> BinaryIO | None:
    """The file to lock; None where the cache can't be written, which keeps nobody from building."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        return (cache / LOCK).open("ab")
    except OSError:
        return None
