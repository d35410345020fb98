"""How late a process's event loop is: measured by each scrape, and asked by probes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial

from prometheus_client import Gauge

MAX_LAG = 1.0
"""Seconds for which a scrape waits for the event loop."""
_MAX_SILENCE = 2.0
"""Seconds within which an event loop that lives answers."""

LAG = Gauge(
    "vireo_event_loop_lag_seconds",
    f"How long the event loop took to answer this scrape; {MAX_LAG:g} if it is blocked.",
)


def measure(loop: asyncio.AbstractEventLoop) -> None:
    """Have every scrape measure the lag of `loop`; without scrapes it costs nothing."""
    LAG.set_function(partial(lag, loop))


def lag(loop: asyncio.AbstractEventLoop) -> float:
    """Return the seconds until `loop` runs a callback from another thread, at most MAX_LAG.

    In the loop's own thread, and once the loop is closed, it is 0.
    """
    if asyncio._get_running_loop() is loop or loop.is_closed():
        return 0.0
    began = time.monotonic()
    answers(loop, MAX_LAG)
    return min(time.monotonic() - began, MAX_LAG)


def answers(loop: asyncio.AbstractEventLoop, seconds: float) -> bool:
    """Return whether `loop` runs a callback from another thread within so many seconds.

    A loop that is closed doesn't.
    """
    answered = threading.Event()
    try:
        loop.call_soon_threadsafe(answered.set)
    except RuntimeError:  # it is closed
        return False
    return answered.wait(seconds)


def probe_pages(
    loop: asyncio.AbstractEventLoop, serving: Callable[[], bool]
) -> dict[str, Callable[[], str]]:
    """Return two pages by their path: each returns the problem, empty if what it asks holds.

    `/live` asks whether the process's event loop answers, `/ready` also whether the process reports
    SERVING. Pages, and `serving`, are called in other threads.
    """

    def live() -> str:
        if answers(loop, _MAX_SILENCE):
            return ""
        return f"the event loop was silent for {_MAX_SILENCE:g} s"

    return {"/live": live, "/ready": lambda: live() or ("" if serving() else "NOT_SERVING")}
