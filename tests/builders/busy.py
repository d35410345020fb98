"""A queue of runs that is busy for as long as a test wants."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.builders.waiting import until
from vireo.server.pod.run_queue import RunQueue
from vireo.server.recommend.runner import Caller


@asynccontextmanager
async def busy(queue: RunQueue) -> AsyncIterator[None]:
    """Its thread does nothing but wait until the block ends, and everything else waits for it."""
    begun, released = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        released.wait()

    blocking = asyncio.create_task(queue.run_in_thread(block, Caller()))
    try:
        await until(begun.is_set)
        yield
    finally:
        released.set()
        await blocking
