"""Whether pods serve the Open Inference Protocol by HTTP, too: pods without aiohttp don't."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from vireo.server.errors import VireoError
from vireo.server.rpc.server import RpcServer
from vireo.server.rpc.settings import RpcSettings


def serve_inference_http(
    server: RpcServer, settings: RpcSettings, port: int
) -> Callable[[], Coroutine[Any, Any, None]]:
    """Return what serves the service of `server` by HTTP until cancelled.

    Raises:
        VireoError: aiohttp isn't installed.
    """
    try:
        from vireo.server.inference.http_server import serve_http
    except ModuleNotFoundError as error:
        raise VireoError(
            "VIREO_OIP_HTTP_PORT needs aiohttp: pip install 'vireo[http]', or set it to 0"
        ) from error
    return partial(serve_http, server, settings, port)
