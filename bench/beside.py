"""Faults and load that happen beside a measurement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def beside(happens: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Have it happen during the block; raise what ended it before the block, if anything did.

    Without it the figures of the block would say nothing.
    """
    happening = asyncio.create_task(happens)
    try:
        yield
    finally:
        ended = happening.done()
        happening.cancel()
        await asyncio.wait([happening])
    if ended:
        happening.result()
