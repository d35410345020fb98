"""Health by HTTP beside the metrics, for probes without a certificate, such as Kubernetes'."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from server.rpc.loop_lag import answers

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_MAX_SILENCE = 2.0
"""Seconds within which an event loop that lives answers."""


def with_probe_pages(
    app: WSGIApplication, loop: asyncio.AbstractEventLoop, serving: Callable[[], bool]
) -> WSGIApplication:
    """Return `app` with two further pages: 200 if what they ask holds, 503 with the reason if not.

    `/live` asks whether the event loop answers, `/ready` also whether the process serves.

    Args:
        app: answers everything else.
        loop: the process's event loop; pages are served in other threads.
        serving: whether the process reports SERVING; called in those threads.
    """

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path not in ("/live", "/ready"):
            return app(environ, start_response)
        problem = ""
        if not answers(loop, _MAX_SILENCE):
            problem = f"the event loop was silent for {_MAX_SILENCE:g} s"
        elif path == "/ready" and not serving():
            problem = "NOT_SERVING"
        status = "503 Service Unavailable" if problem else "200 OK"
        start_response(status, [("Content-Type", "text/plain")])
        return [f"{problem or 'OK'}\n".encode()]

    return answer
