"""Detects that gRPC's accept loop has ended.

grpc.aio runs it in a task that nobody awaits. A request whose path isn't UTF-8 ends it with a
UnicodeDecodeError, before any interceptor sees the request. The edge refuses such paths, but a
client that reaches a server's own port can send one.
"""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

import structlog

log = structlog.get_logger()

_LOOP = "_server_main_loop"


def accept_loop_ended() -> asyncio.Future[None]:
    """Return a future that raises once the accept loop of a server of this event loop has ended.

    Every other failure of a task that nobody awaits is logged.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def on_failure(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        log.error("a task failed that nobody awaits", reason=context["message"], exc_info=error)
        frames = traceback.extract_tb(error.__traceback__) if error else ()
        if any(frame.name.endswith(_LOOP) for frame in frames) and not ended.done():
            ended.set_exception(
                RuntimeError("gRPC accepts no more calls: a request ended its accept loop")
            )

    loop.set_exception_handler(on_failure)
    return ended
