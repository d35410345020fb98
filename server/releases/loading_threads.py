"""How loading gives way to requests: in threads of low priority, and one pod after another."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from vireo.server.releases.download import try_lock

R = TypeVar("R")

LOCK = "build.lock"
_LOOK_SECONDS = 0.02
_REST_SECONDS = 0.15
"""Between two pods: requests that the one delayed are answered before the next one begins."""
_MAX_WAIT_SECONDS = 10.0
"""A pod then builds without a turn: the one before it may hang."""

_CLOSE_SECONDS = 1.0
_NICE = 19
"""With 10, p99 while releases swap was 1.41 times that before, and 1.31 with 19."""
_thread = threading.local()


class LoadingThreads:
    """One thread to load in, and one to free memory in meanwhile. Use it from one event loop."""

    def __init__(self) -> None:
        """Start without threads; they start with the first work."""
        self._executor = ThreadPoolExecutor(2, "release")
        sys.setswitchinterval(0.0005)  # calls would wait up to 5 ms for Python code of a load

    async def run(self, work: Callable[[], R], *, low_priority: bool = False) -> R:
        """Return what `work` returns, or raise what it raises.

        With `low_priority` it runs at a lower priority than requests, also those of the machine's
        other pods. The cache's threads, which verify and download, inherit it.
        """

        def lowered() -> R:
            # On Linux each thread has a priority of its own.
            if sys.platform == "linux" and not getattr(_thread, "lowered", False):
                os.nice(_NICE)
                _thread.lowered = True
            return work()

        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lowered if low_priority else work)

    async def close(self) -> None:
        """Stop the threads, waiting at most a second: S3 requests have timeouts of their own."""
        ended = asyncio.get_running_loop().run_in_executor(None, self._executor.shutdown)
        await asyncio.wait([ended], timeout=_CLOSE_SECONDS)


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
        # In a thread, since a volume may hang; in a loop, since others are other processes.
        while not await asyncio.to_thread(try_lock, file) and time.monotonic() < end:  # noqa: ASYNC110
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
