"""Bounds how many lines one event may log: an outage must not fill the disk."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from weakref import WeakSet

import structlog
from structlog.typing import EventDict

SUPPRESSED = "lines suppressed"
"""The event of the line that reports how many lines of another event were suppressed."""
_LIMITED = {"warning", "error", "critical", "exception"}
MAX_LINES = 20
"""Maximum lines of one event that are logged within a window."""
WINDOW_SECONDS = 10.0


@dataclass
class _Window:
    event: str
    began: float
    lines: int = 0
    suppressed: int = 0


class LineLimit:
    """Admits the first lines of an event in a window, and counts the others.

    Nothing is lost silently: once a window is over, a report says how many lines of the event
    were suppressed in it.
    """

    def __init__(
        self,
        report: Callable[[str, int], None],
        lines: int,
        seconds: float,
    ) -> None:
        """Set the limit.

        Args:
            report: called with an event and the number of its suppressed lines.
            lines: maximum lines of one event that are admitted within a window.
            seconds: length of a window, which begins with an event's first line.
        """
        self._report = report
        self._lines = lines
        self._seconds = seconds
        self._windows: dict[Hashable, _Window] = {}
        # A signal's handler may log while this thread holds the lock.
        self._lock = threading.RLock()
        _limits.add(self)

    def admits(self, key: Hashable, event: str) -> bool:
        """Return whether a line may be logged.

        Args:
            key: identifies the event; there must be few different keys.
            event: its name in the report.
        """
        now = time.monotonic()
        with self._lock:
            window = self._windows.get(key)
            over = None
            if window is None or now - window.began > self._seconds:
                over, window = window, _Window(event, now)
                self._windows[key] = window
            window.lines += 1
            admitted = window.lines <= self._lines
            window.suppressed += not admitted
            first = window.suppressed == 1 and not admitted
        if over is not None:
            self._report_suppressed(over)
        if first:
            self._end_later(key, window)
        return admitted

    def _end_later(self, key: Hashable, window: _Window) -> None:
        left = max(0.0, window.began + self._seconds - time.monotonic())
        timer = threading.Timer(left, self._end, [key, window])
        timer.daemon = True
        # If no thread can be started, the event's next line after the window ends it.
        with suppress(RuntimeError, MemoryError):
            timer.start()

    def flush(self) -> None:
        """End all windows now, and report what they suppressed."""
        with self._lock:
            windows = list(self._windows.items())
        for key, window in windows:
            self._end(key, window)

    def _end(self, key: Hashable, window: _Window) -> None:
        with self._lock:
            if self._windows.get(key) is not window:
                return  # another line of the event has ended it
            del self._windows[key]
        self._report_suppressed(window)

    def _report_suppressed(self, window: _Window) -> None:
        if window.suppressed:
            self._report(window.event, window.suppressed)


_limits: WeakSet[LineLimit] = WeakSet()


@atexit.register
def flush_all() -> None:
    """End all windows of every limit; call it before `os._exit`, which runs nothing at exit."""
    for limit in list(_limits):
        limit.flush()


class StructlogLimit:
    """The limit as a processor of structlog; lines are the same event if they have its name."""

    def __init__(self, limit: LineLimit) -> None:
        """Apply `limit` to warnings and errors; other levels are sampled where they are logged."""
        self._limit = limit

    def __call__(self, _logger: object, method: str, event: EventDict) -> EventDict:
        """Return the event; raise DropEvent if it is over the limit."""
        name = str(event.get("event"))
        if method not in _LIMITED or name == SUPPRESSED or self._limit.admits((method, name), name):
            return event
        raise structlog.DropEvent


class LoggingFilter(logging.Filter):
    """The limit for what libraries log; lines are the same event if the same call logs them."""

    def __init__(self, limit: LineLimit) -> None:
        """Apply `limit`."""
        super().__init__()
        self._limit = limit

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is within the limit."""
        key = (record.name, record.pathname, record.lineno)
        return self._limit.admits(key, f"{record.name}: {record.msg}")
