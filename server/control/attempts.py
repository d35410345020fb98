"""Read external sources: bounded, with errors contained, logged and counted, and retries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import structlog
import urllib3
from prometheus_client import Counter, Gauge

from vireo.server.backoff import backoff
from vireo.server.errors import VireoError

log = structlog.get_logger()

T = TypeVar("T")

FAILURES = Counter(
    "vireo_discovery_failures",
    "Failed attempts to read a source, plus invalid parts of successful ones.",
    ["source"],
)
AGE = Gauge(
    "vireo_discovery_success_age_seconds",
    "Time since the last successful read of the source, or since the start if none.",
    ["source"],
)
_MAX_PAUSE_SECONDS = 2.0
_PART_BYTES = 1 << 16
_MAX_REASON = 500
"""Maximum characters of a logged reason, which may quote the source."""


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return a file's content.

    Raises:
        VireoError: it can't be read, or has more than `max_bytes`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise VireoError(f"{path}: {error.strerror}") from error
    if len(content) > max_bytes:
        raise VireoError(f"{path} has more than {max_bytes} bytes")
    return content


def read_body(response: urllib3.BaseHTTPResponse, max_bytes: int, end: float) -> bytes:
    """Return a response's body; of one that is too long, more than `max_bytes`.

    Timeouts of the connection bound each read, and a body may come byte by byte.

    Raises:
        TimeoutError: it isn't whole at `end`, a time of the monotonic clock.
    """
    body = bytearray()
    while len(body) <= max_bytes and (part := response.read1(_PART_BYTES)):  # what has arrived
        body += part
        if time.monotonic() > end:
            raise TimeoutError("the response took too long")
    return bytes(body)


class Attempts:
    """Outcomes of the attempts to read one source, which are logged and exported as metrics.

    A persistent failure is logged once. Times are of the monotonic clock.
    """

    def __init__(self, source: str) -> None:
        """Start without attempts; `source` is its name in logs and metrics, for example "file"."""
        self.source = source
        self.failures = 0
        """Number of failed attempts, plus invalid parts of successful ones."""
        self._in_a_row = 0
        self._has_succeeded = False
        self._succeeded_at = time.monotonic()
        self._reason = ""
        self._flaws: frozenset[str] = frozenset()
        self._counter = FAILURES.labels(source)
        AGE.labels(source).set_function(lambda: time.monotonic() - self._succeeded_at)

    @contextmanager
    def contained(self) -> Iterator[None]:
        """Record any exception of the block as a failure of the source, and suppress it.

        All types are caught on purpose, since parsers can raise anything on malformed input. An
        exception other than VireoError may be a bug of ours, so its stack is logged.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001
            self.failed(error)

    def succeeded(self, flaws: frozenset[str] = frozenset()) -> None:
        """Record a success; `flaws` describe the response's invalid parts."""
        self._has_succeeded = True
        self._succeeded_at = time.monotonic()
        self._in_a_row = 0
        if self._reason:
            log.info("source recovered", source=self.source)
            self._reason = ""
        fresh, self._flaws = sorted(flaws - self._flaws), flaws
        self._count(len(fresh))
        for flaw in fresh:
            log.error("part of a source ignored", source=self.source, reason=flaw[:_MAX_REASON])

    def failed(self, error: Exception) -> None:
        """Record a failure; the source's last known value stays in use."""
        self._count(1)
        self._in_a_row += 1
        expected = isinstance(error, VireoError)
        reason = (str(error) if expected else f"{type(error).__name__}: {error}")[:_MAX_REASON]
        if reason != self._reason:
            self._reason = reason
            log.error(
                "source failed; keeping its last known value",
                source=self.source,
                reason=reason,
                exc_info=None if expected else error,
            )

    def _count(self, failures: int) -> None:
        self.failures += failures
        self._counter.inc(failures)

    def pause(self, usual: float) -> float:
        """Return the seconds to wait before the next attempt; after failures, by a backoff.

        It stays short until the first success, which the start may wait for.
        """
        if not self._in_a_row:
            return usual
        longest = max(usual, _MAX_PAUSE_SECONDS) if self._has_succeeded else _MAX_PAUSE_SECONDS
        return backoff(self._in_a_row, min(usual, _MAX_PAUSE_SECONDS / 4), longest)


async def follow(
    attempts: Attempts,
    read: Callable[[], tuple[T, frozenset[str]]],
    changed: Callable[[T], None],
    seconds: float,
) -> None:
    """Poll a source until cancelled, and pass on each change.

    Args:
        attempts: records the outcomes.
        read: returns the source's value, and what was invalid in it; runs in a thread and may
            raise anything.
        changed: called with the first value and on each change. If it raises, the attempt has
            failed and the same value is passed on again.
        seconds: seconds between attempts.
    """
    known: T | None = None
    while True:
        with attempts.contained():
            value, flaws = await asyncio.to_thread(read)
            if value != known:
                changed(value)
                known = value
            attempts.succeeded(flaws)
        await asyncio.sleep(attempts.pause(seconds))
