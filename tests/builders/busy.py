"""A worker that is busy for as long as a test wants."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.pod.worker import Worker
from tests.builders.waiting import until


@asynccontextmanager
async def busy(worker: Worker) -> AsyncIterator[None]:
    """A worker that does nothing but wait until the block ends."""
    released = threading.Event()
    blocking = asyncio.create_task(worker.run(released.wait))
    try:
        await until(lambda: worker.running_since is not None)
        yield
    finally:
        released.set()
        await blocking
