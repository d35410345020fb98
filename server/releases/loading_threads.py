"""The threads in which releases are loaded, so that answers don't wait for it."""

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
_NICE = 10


class LoadingThreads:
    """One thread to load in, and one to give memory back in meanwhile. Use it from one loop."""

    def __init__(self) -> None:
        """Starts no thread before there is work."""
        self._executor = ThreadPoolExecutor(2, "release")

    async def run(self, work: Callable[[], R]) -> R:
        """What `work` returns, or raises."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def run_behind_answers(self, work: Callable[[], R]) -> R:
        """The same, for what takes much: answers go first."""

        def run() -> R:
            _yield_to_answers()
            return work()

        return await self.run(run)

    async def close(self) -> None:
        """Ends the threads, for a second at most: what S3 holds up ends by its own time limit."""
        ended = asyncio.get_running_loop().run_in_executor(None, self._executor.shutdown)
        await asyncio.wait([ended], timeout=_CLOSE_SECONDS)


_thread = threading.local()


def _yield_to_answers() -> None:
    """Lets answers go before this thread from now on, also those of the machine's other pods.

    The cache's threads, which verify and download, are started by it and inherit that.
    """
    # On Linux each thread has a priority of its own.
    if sys.platform == "linux" and not getattr(_thread, "yields", False):
        os.nice(_NICE)
        _thread.yields = True
