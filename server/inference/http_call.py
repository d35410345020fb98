"""A request by HTTP in place of a gRPC call, and errors as HTTP has them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NoReturn

import grpc
from aiohttp import hdrs, web
from google.rpc import error_details_pb2, status_pb2

from server.pod.admission import timeout_seconds
from server.rpc.guard import REQUEST_ID

MAX_SECONDS = 10.0
"""Deadline of a request; the header `grpc-timeout` may ask for less."""

_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


class RefusedError(Exception):
    """How a call ended that the guard, or its handler, refused."""

    def __init__(self, code: grpc.StatusCode, message: str, metadata: dict[str, Any]) -> None:
        super().__init__(message)
        self.code, self.message, self.metadata = code, message, metadata

    def response(self) -> web.Response:
        """Return the error as HTTP has it."""
        retry_after = _retry_after(self.metadata["grpc-status-details-bin"])
        status = _STATUS.get(self.code, 500)
        if self.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            # Without a time to retry it is too large, and would be again.
            status = 413 if retry_after is None else 429
        headers = {REQUEST_ID: self.metadata[REQUEST_ID]}
        if retry_after is not None:
            headers[hdrs.RETRY_AFTER] = str(retry_after)
        return error_response(status, self.message, headers)


class Call:
    """A request by HTTP, as the guard and handlers see calls: in place of gRPC's context."""

    def __init__(self, request: web.Request, read: Callable[[], Awaitable[bytes]]) -> None:
        """Start the call's deadline; `read` reads its message, once it is admitted."""
        asked = timeout_seconds(request.headers.get("grpc-timeout", ""))
        seconds = MAX_SECONDS if asked is None else min(asked, MAX_SECONDS)
        self.ends = asyncio.get_running_loop().time() + seconds
        """When the deadline is, by the loop's clock."""
        self.trailing: dict[str, Any] = {}
        """Metadata for the end of the response."""
        self.read = read
        self.read_seconds = None
        """No bound of its own on `read`."""
        self._request = request

    def invocation_metadata(self) -> Iterable[tuple[str, str]]:
        """Return the headers."""
        return [(name.lower(), value) for name, value in self._request.headers.items()]

    def time_remaining(self) -> float:
        """Return the seconds until the deadline."""
        return max(0.0, self.ends - asyncio.get_running_loop().time())

    def set_trailing_metadata(self, metadata: Iterable[tuple[str, Any]]) -> None:
        """Set what the response's headers are taken from."""
        self.trailing = dict(metadata)

    async def abort(
        self, code: grpc.StatusCode, message: str, metadata: Iterable[tuple[str, Any]]
    ) -> NoReturn:
        """Raise RefusedError."""
        raise RefusedError(code, message, dict(metadata))


def error_response(
    status: int, message: str, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return an error as the protocol has it."""
    return web.json_response({"error": message}, status=status, headers=headers)


def _retry_after(status: bytes) -> int | None:
    """Return the whole seconds of a status' RetryInfo; None if it has none."""
    retry = error_details_pb2.RetryInfo()
    for detail in status_pb2.Status.FromString(status).details:
        if detail.Unpack(retry):
            return math.ceil(retry.retry_delay.ToTimedelta().total_seconds())
    return None
