"""Faults that happen beside a measurement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def beside(faults: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Have faults happen during the block; raise what ended them before it, if anything did.

    Without them the figures of the block would say nothing.
    """
    happening = asyncio.create_task(faults)
    try:
        yield
    finally:
        ended = happening.done()
        happening.cancel()
        await asyncio.wait([happening])
    if ended:
        happening.result()
