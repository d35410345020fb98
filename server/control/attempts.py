"""How attempts to read a source outside this process go: contained, logged, shown and repeated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import structlog

from server.errors import VireoError

log = structlog.get_logger()

T = TypeVar("T")

_MAX_PAUSE_SECONDS = 2.0
_MAX_REASON = 500
"""Characters of a reason that are logged: it may quote what the source said."""
_MAX_FLAWS = 20
"""Flaws that are logged of one answer."""


class Attempts:
    """How the attempts to read one source have gone: logged here, and shown as metrics.

    A failure that lasts is logged once. Times are of the monotonic clock.
    """

    def __init__(self, source: str) -> None:
        """Start without attempts; logs and metrics name the source so, for example "file"."""
        self.source = source
        self.failures = 0
        """How many attempts failed, and how many parts of others couldn't be used."""
        self._in_a_row = 0
        self._succeeded_at = time.monotonic()
        self._reason = ""
        self._flaws: frozenset[str] = frozenset()

    @contextmanager
    def contained(self) -> Iterator[None]:
        """Make any exception of the block a failure of the source, and of nothing else.

        There is no list of types, on purpose: given the right bytes, a parser raises anything.
        What isn't a VireoError may be a mistake of ours as well, so it is logged with its stack.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001
            self.failed(error)

    def succeeded(self, flaws: frozenset[str] = frozenset()) -> None:
        """Note that the source has answered.

        Args:
            flaws: what of the answer can't be used, and why.
        """
        self._succeeded_at = time.monotonic()
        self._in_a_row = 0
        if self._reason:
            log.info("a source answers again", source=self.source)
            self._reason = ""
        fresh = sorted(flaws - self._flaws)
        self.failures += len(fresh)
        for flaw in fresh[:_MAX_FLAWS]:
            log.error(
                "part of a source can't be used", source=self.source, reason=flaw[:_MAX_REASON]
            )
        if len(fresh) > _MAX_FLAWS:
            log.error(
                "more of a source can't be used", source=self.source, more=len(fresh) - _MAX_FLAWS
            )
        self._flaws = flaws

    def failed(self, error: Exception) -> None:
        """Note that an attempt has failed: what the source told before stays."""
        self.failures += 1
        self._in_a_row += 1
        expected = isinstance(error, VireoError)
        reason = (str(error) if expected else f"{type(error).__name__}: {error}")[:_MAX_REASON]
        if reason != self._reason:
            self._reason = reason
            log.error(
                "a source fails; what it told before stays",
                source=self.source,
                reason=reason,
                exc_info=None if expected else error,
            )

    @property
    def failing(self) -> bool:
        """Whether the last attempt failed."""
        return self._in_a_row > 0

    def pause(self, usual: float) -> float:
        """Return the seconds to wait before the next attempt, more after each failure in a row."""
        return max(usual, min(_MAX_PAUSE_SECONDS, usual * 2.0 ** min(self._in_a_row, 20)))

    @property
    def age(self) -> float:
        """Seconds since the last success; since the start if there was none."""
        return time.monotonic() - self._succeeded_at


async def follow(
    attempts: Attempts,
    read: Callable[[], T],
    changed: Callable[[T], None],
    pause: Callable[[], float],
    fallback: T | None = None,
) -> None:
    """Read a source again and again until cancelled, and pass on each change.

    Args:
        attempts: notes how it goes.
        read: returns what the source says; runs in a thread and may raise anything.
        changed: is called at first and on each change. If it raises, the attempt has failed and
            the same value is passed on again.
        pause: returns the seconds to wait before the next attempt.
        fallback: is passed on if the first attempt fails; nothing is if None.
    """
    known: T | None = None
    while True:
        with attempts.contained():
            value = await asyncio.to_thread(read)
            if value != known:
                changed(value)
                known = value
            attempts.succeeded()
        if known is None and fallback is not None and attempts.failing:
            with attempts.contained():
                changed(fallback)
                known = fallback
        await asyncio.sleep(pause())
