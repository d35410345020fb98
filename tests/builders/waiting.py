"""Waits for conditions instead of for time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Return once `condition` holds; raise TimeoutError after `seconds` without."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (whatever it looks at has no event)
            await asyncio.sleep(0.005)
