"""Waits for conditions instead of for time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Return once `condition` holds; raise TimeoutError after `seconds` without."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (whatever it looks at has no event)
            await asyncio.sleep(0.005)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Return once `condition` holds, in a test without an event loop.

    Raises:
        TimeoutError: it doesn't within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(0.02)


def wait_for(find: Callable[[], Found], seconds: float = 60) -> Found:
    """Return what `find` returns once that is true."""
    found: list[Found] = []

    def holds() -> bool:
        found[:] = [find()]
        return bool(found[0])

    wait_until(holds, seconds)
    return found[0]
