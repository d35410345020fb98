"""What every call to a service of ours goes through: shed, or parse, validate, answer, explain."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError, Message
from prometheus_client import Counter

from server.rpc import standard
from server.rpc.errors import RpcError, ShedError, invalid_argument, unavailable
from server.rpc.shedding import SHED, Metadata, Shedder
from server.rpc.validation import validate

log = structlog.get_logger()

Handler: TypeAlias = Any
"""grpc.RpcMethodHandler, whose stubs don't know that an aio handler is a coroutine."""
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

REQUEST_ID = "x-request-id"
"""Metadata key: sent by the caller or made here, returned, and in every log line."""
_REQUEST_ID_LIMIT = 128
_PACKAGES = ("/vireo.", "/inference.")

RPCS = Counter(
    "vireo_rpcs", "Calls that were answered, by full method name and status.", ["method", "code"]
)


def request_id() -> str:
    """The id of the call that is being answered; empty outside of one."""
    found: str = structlog.contextvars.get_contextvars().get("request_id", "")
    return found


class Guard(grpc.aio.ServerInterceptor):
    """Wraps each unary method of what we serve, and of health and the like only the parsing."""

    def __init__(self, access_log_share: float) -> None:
        """Takes the share of calls that get a log line."""
        self._access_log_share = access_log_share
        self._guarded: dict[str, Handler] = {}
        self._shedders: dict[str, Shedder] = {}
        self._active = 0
        self._closed = False
        self.idle = asyncio.Event()
        """Set while no call is being answered."""
        self.idle.set()

    def shed(self, service: str, shedder: Shedder) -> None:
        """Has a shedder decide which calls of a service to take on; all, of a service without."""
        self._shedders[service] = shedder

    def close(self) -> None:
        """From now on new calls get UNAVAILABLE; those that are being answered go on."""
        self._closed = True

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The guarded handler of one of our methods; of gRPC's own services, one that explains."""
        method = handler_call_details.method
        if method in self._guarded:
            return self._guarded[method]
        handler = await continuation(handler_call_details)
        if handler is not None and method.startswith(standard.PREFIX):
            guarded = standard.explained(handler)
        elif handler is not None and method.startswith(_PACKAGES) and handler.unary_unary:
            guarded = self._guard(method, handler)
        else:
            return handler
        self._guarded[method] = guarded
        return guarded

    def _guard(self, method: str, handler: Handler) -> Handler:
        """The handler with raw bytes as its request, so that parsing is ours to explain.

        It reads its one message itself, as if there might be several: a call that is shed or
        refused costs no reading. To the caller it is all the same.
        """
        answered = RPCS.labels(method, grpc.StatusCode.OK.name)
        shedder = self._shedders.get(method.split("/")[1])

        async def call(_: object, context: Context) -> Message:
            metadata = context.invocation_metadata() or ()
            identity = _caller_id(metadata) or uuid.uuid4().hex
            structlog.contextvars.bind_contextvars(request_id=identity)
            started = time.perf_counter()
            self._active += 1
            self.idle.clear()
            try:
                if self._closed:
                    raise unavailable("this server stops; ask another one", timedelta(0))
                if shedder is None:
                    response = await _answer(method, handler, context, identity)
                else:
                    begun = await shedder.take_on(metadata, context.time_remaining())
                    told: Message | None = None
                    try:
                        response = told = await _answer(method, handler, context, identity)
                    finally:
                        shedder.ended(begun, told)
            except RpcError as error:
                if isinstance(error, ShedError):
                    SHED.labels(method, error.reason.name.lower()).inc()
                RPCS.labels(method, error.code.name).inc()
                self._log_access(method, error.code, started)
                await context.abort(
                    error.code,
                    error.message,
                    ((REQUEST_ID, identity), ("grpc-status-details-bin", error.status())),
                )
            except asyncio.CancelledError:
                # The caller has gone, or its deadline has passed.
                RPCS.labels(method, grpc.StatusCode.CANCELLED.name).inc()
                raise
            finally:
                self._active -= 1
                if not self._active:
                    self.idle.set()
            answered.inc()
            self._log_access(method, grpc.StatusCode.OK, started)
            context.set_trailing_metadata(((REQUEST_ID, identity),))
            return response

        return grpc.stream_unary_rpc_method_handler(
            call,
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )

    def _log_access(self, method: str, code: grpc.StatusCode, started: float) -> None:
        # A sample, since a line costs as much as a fifth of the call.
        if random.random() < self._access_log_share:  # noqa: S311
            took = round((time.perf_counter() - started) * 1000, 3)
            log.info("call", method=method, code=code.name, milliseconds=took)


async def _answer(method: str, handler: Handler, context: Context, identity: str) -> Message:
    """What the handler answers to a valid request; anything else becomes an RpcError."""
    try:
        raw = await context.read()
        if raw is grpc.aio.EOF:
            if context.cancelled():  # before its message was here
                raise asyncio.CancelledError
            raise invalid_argument([("", "the call has no message")])
        request = _parse(handler.request_deserializer, raw)
        validate(request)
        response: Message = await handler.unary_unary(request, context)
    except RpcError:
        raise
    except Exception as error:
        # Whatever a handler didn't foresee: the log has the stack, the caller the id.
        log.exception("call failed", method=method)
        raise RpcError(
            grpc.StatusCode.INTERNAL,
            f"internal error; the server's log has it under request id {identity}",
        ) from error
    return response


def _caller_id(metadata: Metadata) -> str:
    """The request id that the caller sent; empty where there is none that is fit to log."""
    for key, value in metadata:
        if key == REQUEST_ID and isinstance(value, str) and len(value) <= _REQUEST_ID_LIMIT:
            return value
    return ""


def _parse(deserialize: Callable[[bytes], Message] | None, raw: bytes) -> Message:
    if deserialize is None:
        raise TypeError("the method was registered without a request type")
    try:
        return deserialize(raw)
    except DecodeError as error:
        raise invalid_argument([("", f"the request can't be parsed: {error}")]) from error
