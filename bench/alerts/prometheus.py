"""A Prometheus' alerts: those that fire now, and those that fired."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from vireo.server.errors import VireoError

_SECONDS = 10.0
_STEP = 1.0
"""Rules are evaluated each five seconds."""
_MAX_STEPS = 10_000
"""Prometheus gives 11,000 samples of a series at most."""
_WATCHDOG = "watchdog"
"""Severity of the alert that always fires."""
_FIRING = f'max by (alertname) (ALERTS{{alertstate="firing",severity!="{_WATCHDOG}"}})'


class Prometheus:
    """A running server. Each method raises VireoError if it doesn't answer."""

    def __init__(self, url: str) -> None:
        """Ask the server at a URL without path."""
        self._url = url

    async def firing(self) -> frozenset[str]:
        """Return the names of the alerts that fire now, but for the one that always does."""
        alerts = (await self._get("alerts"))["alerts"]
        return frozenset(
            each["labels"]["alertname"]
            for each in alerts
            if each["state"] == "firing" and each["labels"]["severity"] != _WATCHDOG
        )

    async def fired(self, start: float, end: float) -> Mapping[str, list[float]]:
        """Return at which moments alerts fired, by name; all times are Unix seconds.

        Moments are `step_of` the time between `start` and `end` apart.
        """
        asked = {"query": _FIRING, "start": start, "end": end, "step": step_of(start, end)}
        found = (await self._get("query_range", **asked))["result"]
        return {
            each["metric"]["alertname"]: [float(at) for at, _ in each["values"]] for each in found
        }

    async def resolved(self, alert: str, since: float) -> float | None:
        """Return the seconds from a moment until an alert did not fire; None if it still does."""
        now = time.time()
        moments = (await self.fired(since, now)).get(alert, [])
        return resolved_after(moments, since, now)

    async def _get(self, path: str, **asked: Any) -> Any:
        def read() -> Any:
            with urllib.request.urlopen(  # noqa: S310
                f"{self._url}/api/v1/{path}?{urlencode(asked)}", timeout=_SECONDS
            ) as answer:
                return json.load(answer)["data"]

        try:
            return await asyncio.to_thread(read)
        except (OSError, ValueError) as error:
            raise VireoError(f"Prometheus at {self._url} doesn't answer: {error}") from error


def step_of(start: float, end: float) -> float:
    """Return the seconds between two moments of a range: one, if Prometheus gives as many."""
    return max(_STEP, (end - start) / _MAX_STEPS)


def resolved_after(moments: Sequence[float], since: float, now: float) -> float | None:
    """Return the seconds until an alert did not fire; None if it still does.

    Args:
        moments: at which it fired, of all that are `step_of` apart from `since` to `now`.
        since: Unix seconds.
        now: Unix seconds.
    """
    step, at = step_of(since, now), since
    for moment in moments:
        if moment - at > 1.5 * step:
            break  # it fired again
        at = moment
    return None if now - at < 2 * step else at - since
