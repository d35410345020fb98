"""What a source of endpoints is, and the one that never changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Protocol

import structlog

from server.control.mesh import Endpoints

log = structlog.get_logger()


class Attempts:
    """How a source's attempts to find pods have gone: logged here, and shown as metrics.

    What goes on is logged once. Times are of the monotonic clock.
    """

    def __init__(self, source: str) -> None:
        """Takes the source's name, for example "file"."""
        self.source = source
        self.failures = 0
        """How many attempts failed, and how many parts of others couldn't be used."""
        self._succeeded_at = time.monotonic()
        self._reason = ""
        self._flaws: frozenset[str] = frozenset()

    def succeeded(self, flaws: frozenset[str] = frozenset()) -> None:
        """Takes down that the source has told where pods are.

        Args:
            flaws: what of it can't be used, and why.
        """
        self._succeeded_at = time.monotonic()
        if self._reason:
            log.info("pods are found again", source=self.source)
            self._reason = ""
        for flaw in sorted(flaws - self._flaws):
            self.failures += 1
            log.error("not all pods are found", source=self.source, reason=flaw)
        self._flaws = flaws

    def failed(self, reason: str) -> None:
        """Takes down that the source has told nothing, and why: what it told before stays."""
        self.failures += 1
        if reason != self._reason:
            self._reason = reason
            log.error("pods are not found; those known stay", source=self.source, reason=reason)

    @property
    def age(self) -> float:
        """Seconds since the last success; since the start where there was none."""
        return time.monotonic() - self._succeeded_at


class Discovery(Protocol):
    """A source of endpoints."""

    @property
    def attempts(self) -> Attempts | None:
        """How it goes; None where nothing can fail."""
        ...

    def watch(self) -> AsyncIterator[Endpoints]:
        """All pods now, and all of them again whenever that changes, for as long as it is asked.

        What can't be read is told to `attempts` and left out: the answer before it stays.
        """
        ...


class StaticDiscovery:
    """The pods that a setting lists."""

    def __init__(self, endpoints: Endpoints) -> None:
        """Takes the pods."""
        self.attempts = None
        self._endpoints = endpoints

    async def watch(self) -> AsyncIterator[Endpoints]:
        """The pods, once."""
        yield self._endpoints
        await asyncio.Event().wait()
