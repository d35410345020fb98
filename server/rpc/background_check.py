"""Looks at files in a thread: on a volume that hangs, that takes as long as it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class BackgroundCheck(Generic[T]):
    """A check that runs in a thread of its own, once at a time, when it is due or asked for.

    However long it hangs, it holds up no event loop and no second thread.
    """

    def __init__(self, check: Callable[[], T], seconds: float) -> None:
        """Run `check` at most once in `seconds`, for the first time after them."""
        self._check, self._seconds = check, seconds
        self._due = time.monotonic() + seconds
        self._thread = ThreadPoolExecutor(1, "files")
        self._running: Future[T] | None = None

    def start_if_due(self) -> None:
        """Start the check if it is due; call it whenever what it looks at is used."""
        if time.monotonic() >= self._due:
            self.start()

    def start(self) -> Future[T]:
        """Return the check that is under way, started now unless there is one."""
        if self._running is None or self._running.done():
            self._due = time.monotonic() + self._seconds
            self._running = self._thread.submit(self._check)
        return self._running
