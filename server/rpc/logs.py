"""Structured logs on standard error: JSON, one object a line, or coloured on a terminal.

An event has a bounded number of lines: an outage must not fill the disk.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import structlog
from structlog.typing import EventDict

from vireo.server.rpc.trace import add_trace_id

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

    Nothing is lost silently: the first line after a window, or the end of the process, comes with
    a report of how many lines of the event were suppressed in it.
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
            admitted = window.lines <= self._lines
        if over is not None:
            self._report_suppressed(over)
        return admitted

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
            windows, self._windows = self._windows, {}
        for window in windows.values():
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


def configure_logs(level: str, **every_line: str) -> None:
    """Set up logging for this process. Warnings and errors are limited by event.

    Args:
        level: minimum level that is logged, for example "info".
        every_line: values that each line carries, for example the pod's name.
    """
    structlog.contextvars.bind_contextvars(**every_line)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        add_trace_id,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendered: list[Any] = (
        [structlog.dev.ConsoleRenderer()]
        if sys.stderr.isatty()
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )

    def report(event: str, lines: int) -> None:
        # Called by a timer's thread, which has no context of its own.
        structlog.get_logger().warning(
            SUPPRESSED,
            of=event,
            lines=lines,
            seconds=WINDOW_SECONDS,
            **every_line,
        )

    limit = LineLimit(report, MAX_LINES, WINDOW_SECONDS)
    structlog.configure(
        processors=[limit.process, *shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries' logs, in the same form.
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(limit)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
