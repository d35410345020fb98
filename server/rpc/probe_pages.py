"""Health by HTTP beside the metrics, for probes without a certificate, such as Kubernetes'."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from server.rpc.loop_lag import answers

_MAX_SILENCE = 2.0
"""Seconds within which an event loop that lives answers."""


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
