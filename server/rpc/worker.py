"""One worker thread for model work, with a short queue before it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TypeVar

from server.rpc.errors import overloaded

Result = TypeVar("Result")

RETRY_AFTER = timedelta(milliseconds=100)


class Worker:
    """Runs work off the event loop, so that health checks are answered while models run.

    One thread, since a process has one core: more would only make each call slower. A call
    that is cancelled or past its deadline before its turn is never run.
    """

    def __init__(self, queue_limit: int) -> None:
        """Takes how many calls may be waiting or running."""
        self._queue_limit = queue_limit
        self.queued = 0
        """Calls that are waiting or running."""
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def run(self, work: Callable[[], Result]) -> Result:
        """What `work` returns.

        Raises:
            RpcError: RESOURCE_EXHAUSTED when the queue is full; nothing was run.
        """
        if self.queued >= self._queue_limit:
            raise overloaded(
                f"{self.queued} calls are waiting already; try again or elsewhere", RETRY_AFTER
            )
        self.queued += 1
        try:
            # The context carries the request id into the stages' log lines.
            context = contextvars.copy_context()
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, context.run, work)
        finally:
            self.queued -= 1
