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


class LineLimit:
    """Admits the first lines of an event in a window, and counts the others.

    Nothing is lost silently: once a window is over, a report says how many lines of the event
    were suppressed in it.
    """

    def __init__(self, report: Callable[[str, int], None], lines: int, seconds: float) -> None:
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
        over = None
        with self._lock:
            window = self._windows.get(key)
            if window is None or now - window.began > self._seconds:
                over, window = window, _Window(event, now)
                self._windows[key] = window
            window.lines += 1
            line = window.lines
        if over is not None:
            self._report_suppressed(over)
        if line == self._lines + 1:
            left = window.began + self._seconds - now
            timer = threading.Timer(left, self._end, [key, window])
            timer.daemon = True
            # If no thread can be started, the event's next line after the window ends it.
            with suppress(RuntimeError, MemoryError):
                timer.start()
        return line <= self._lines

    def process(self, _logger: object, method: str, event: EventDict) -> EventDict:
        """Limit warnings and errors by their name, as a processor of structlog.

        Other levels are sampled where they are logged.
        """
        name = str(event.get("event"))
        if method not in _LIMITED or name == SUPPRESSED or self.admits((method, name), name):
            return event
        raise structlog.DropEvent

    def filter(self, record: logging.LogRecord) -> bool:
        """Limit what libraries log by the call that logs it, as a filter of `logging`."""
        key = (record.name, record.pathname, record.lineno)
        return self.admits(key, f"{record.name}: {record.msg}")

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
        if window.lines > self._lines:
            self._report(window.event, window.lines - self._lines)


_limits: WeakSet[LineLimit] = WeakSet()


@atexit.register
def flush_all() -> None:
    """End all windows of every limit; call it before `os._exit`, which runs nothing at exit."""
    for limit in list(_limits):
        limit.flush()
