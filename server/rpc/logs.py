"""Structured logs on standard error: JSON, one object a line, or coloured on a terminal."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from vireo.server.rpc import log_limit
from vireo.server.rpc.trace import add_trace_id


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
            log_limit.SUPPRESSED,
            of=event,
            lines=lines,
            seconds=log_limit.WINDOW_SECONDS,
            **every_line,
        )

    limit = log_limit.LineLimit(report, log_limit.MAX_LINES, log_limit.WINDOW_SECONDS)
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
