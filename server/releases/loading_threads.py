"""The threads in which releases are loaded, so that requests don't wait for it."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

R = TypeVar("R")

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
