"""The Open Inference Protocol by HTTP: the same guarded methods as by gRPC, in JSON.

This module needs aiohttp: only pods that serve HTTP import it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import grpc
from aiohttp import hdrs, web
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from vireo.inference import open_inference_pb2 as pb
from vireo.server.errors import VireoError
from vireo.server.inference.http_messages import JSON_LENGTH, InferRequest, as_json, encode
from vireo.server.rpc import reading
from vireo.server.rpc.caller import CALLER
from vireo.server.rpc.errors import RpcError, invalid_argument
from vireo.server.rpc.guard import REQUEST_ID, Guard, request_id
from vireo.server.rpc.reading import Context, NoMessageError
from vireo.server.rpc.server import RpcServer
from vireo.server.rpc.settings import RpcSettings

NAME = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
MAX_SECONDS = 10.0
"""Deadline of a request."""

_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}

_IDLE_SECONDS = 75.0
"""Seconds for which a connection may have no request."""
_SHUTDOWN_SECONDS = 0.2
"""Seconds for responses that are being written when the pod stops, whose calls have ended."""
_INLINE_BYTES = 16 << 10
"""Maximum bytes of a body that is decoded on the event loop: some two milliseconds."""
_BYTE_SECONDS = 1e-7
"""Cost of a byte of a body."""
_BINARY_EXTENSION = "binary_tensor_data"
_MODEL = "/v2/models/{name}"
_MODELS = (_MODEL, _MODEL + "/versions/{version}")

_Read = Callable[[], Awaitable[bytes]]


class Call:
    """A request by HTTP, as the guard and handlers see calls: in place of gRPC's context."""

    def __init__(self, request: web.Request, read: _Read) -> None:
        """Start the call's deadline; `read` reads its message, once it is admitted."""
        self.ends = asyncio.get_running_loop().time() + MAX_SECONDS
        """When the deadline is, by the loop's clock."""
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


@dataclass(frozen=True)
class _InferenceHttp:
    """The routes of the protocol, before a pod's server."""

    guard: Guard
    max_bytes: int
    """Maximum bytes of a body."""

    def application(self) -> web.Application:
        """Return the application with all routes."""
        app = web.Application(client_max_size=self.max_bytes, middlewares=[_errors_in_json])
        routes: dict[str, type[Message]] = {
            "/v2": pb.ServerMetadataRequest,
            "/v2/health/live": pb.ServerLiveRequest,
            "/v2/health/ready": pb.ServerReadyRequest,
        }
        for place in _MODELS:
            routes[place] = pb.ModelMetadataRequest
            routes[f"{place}/ready"] = pb.ModelReadyRequest
            routes[f"{place}/config"] = pb.ModelConfigRequest
            app.router.add_route("POST", f"{place}/infer", self._infer)
        for place, kind in routes.items():
            app.router.add_route("GET", place, partial(self._describe, kind))
        return app

    async def _describe(self, kind: type[Message], request: web.Request) -> web.Response:
        """Return the response to a message that has no more than a model and version."""
        document, status = as_json(await self._ask(request, kind)), 200
        if kind is pb.ServerMetadataRequest:
            document["extensions"].append(_BINARY_EXTENSION)
        elif kind is pb.ModelConfigRequest:
            document = document["config"]
        elif document.get("ready") is False:
            status = 503
            if kind is pb.ModelReadyRequest:
                await self._ask(request, pb.ModelMetadataRequest)  # 404 if unknown
        if kind is pb.ModelReadyRequest:
            document = {"name": request.match_info["name"], **document}
        return web.json_response(document, status=status, headers=_headers())

    async def _infer(self, request: web.Request) -> web.Response:
        decoded: InferRequest

        async def read() -> bytes:
            nonlocal decoded
            body, length = await self._body(request), request.headers.get(JSON_LENGTH)
            name, version = _model_and_version(request)
            decode = partial(InferRequest.decode, body, length, name, version)
            caller = request.headers.get(CALLER, "")
            async with self.guard.budget.turn(caller, len(body) * _BYTE_SECONDS):
                inline = len(body) <= _INLINE_BYTES
                decoded = decode() if inline else await asyncio.to_thread(decode)
            return decoded.message.SerializeToString()

        response = await self._call(request, "ModelInfer", read)
        body, json_length = encode(response, decoded)
        kind, headers = "application/json", _headers()
        if json_length is not None:
            kind, headers = "application/octet-stream", {**headers, JSON_LENGTH: str(json_length)}
        return web.Response(body=body, content_type=kind, headers=headers)

    async def _body(self, request: web.Request) -> bytes:
        """Return the body; raise RpcError if it is too large, compressed, or broken off."""
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
            raise invalid_argument([(hdrs.CONTENT_ENCODING, "must be identity")])
        try:
            async with asyncio.timeout(reading.MAX_MESSAGE_SECONDS):
                return await request.read()
        except TimeoutError as error:
            seconds = f"{reading.MAX_MESSAGE_SECONDS:g}"
            raise NoMessageError(f"no message arrived within {seconds} s of the call") from error
        except web.HTTPRequestEntityTooLarge as error:
            raise RpcError(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"the body exceeds {self.max_bytes:,} bytes"
            ) from error
        except (web.RequestPayloadError, ConnectionError) as error:
            raise invalid_argument([("", "the body is incomplete, or not as declared")]) from error

    async def _ask(self, request: web.Request, kind: type[Message]) -> Any:
        """Return the response to a message of this kind about the model in the path, if any."""
        values = dict(zip(("name", "version"), _model_and_version(request), strict=True))
        message = kind(**{name: values[name] for name in kind.DESCRIPTOR.fields_by_name})

        async def read() -> bytes:
            return message.SerializeToString()

        return await self._call(request, kind.DESCRIPTOR.name.removesuffix("Request"), read)

    async def _call(self, request: web.Request, method: str, read: _Read) -> Any:
        """Return a method's response.

        Raises:
            RpcError: the call has failed.
            TimeoutError: its deadline has passed.
        """
        call = Call(request, read)
        async with asyncio.timeout_at(call.ends):
            return await self.guard.answers[f"/{NAME}/{method}"](cast("Context", call))


@asynccontextmanager
async def http_endpoint(server: RpcServer, settings: RpcSettings, port: int) -> AsyncIterator[int]:
    """Serve the inference service of `server` by HTTP during the block.

    Args:
        server: the pod's server.
        settings: the server's; the port asks for the same certificates.
        port: where to listen; the block gets it, or a free one if it is 0.

    Raises:
        VireoError: the port can't be bound, or a TLS file can't be read.
    """
    runner = web.AppRunner(
        _InferenceHttp(server.guard, settings.max_message_bytes).application(),
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,  # nobody reads the response
        auto_decompress=False,
        keepalive_timeout=_IDLE_SECONDS,
        lingering_time=1.0,
        shutdown_timeout=_SHUTDOWN_SECONDS,
    )
    context = settings.tls.server_context() if settings.tls else None
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, settings.host, port, ssl_context=context).start()
        except OSError as error:
            raise VireoError(
                f"can't serve HTTP on {settings.host}:{port}: {error.strerror}; stop the other "
                "process, or set VIREO_OIP_HTTP_PORT (0 for none)"
            ) from error
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@web.middleware
async def _errors_in_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Return every error as the protocol has it."""
    try:
        return await handler(request)
    except RpcError as error:
        return _refusal(error)
    except TimeoutError:
        return _error(504, "the deadline has passed")
    except web.HTTPException as error:
        allowed = error.headers.get(hdrs.ALLOW)
        why = f"{request.method} {request.path!a}: {error.reason}"
        return _error(error.status, why, {hdrs.ALLOW: allowed} if allowed else {})


def _refusal(error: RpcError) -> web.Response:
    """Return an error of the guard, or of a handler, as HTTP has it."""
    status, headers = _STATUS.get(error.code, 500), _headers()
    infos = [each for each in error.details if isinstance(each, error_details_pb2.RetryInfo)]
    for retry in infos:
        seconds = retry.retry_delay.ToTimedelta().total_seconds()
        headers[hdrs.RETRY_AFTER] = str(math.ceil(seconds))
    if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # Without a time to retry it is too large, and would be again.
        status = 429 if infos else 413
    return _error(status, error.message, headers)


def _headers() -> dict[str, str]:
    """Return the headers of the response to a call."""
    return {REQUEST_ID: request_id()}


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"error": message}, status=status, headers=headers)


def _model_and_version(request: web.Request) -> tuple[str, str]:
    found = request.match_info
    return found.get("name", ""), found.get("version", "")
