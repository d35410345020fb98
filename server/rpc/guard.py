"""The guard of every call: shed it, or read, parse, validate and answer it."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter as Tally
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError, Message
from prometheus_client import Counter, Histogram

from vireo.server.rpc import standard
from vireo.server.rpc.admission import Admission
from vireo.server.rpc.budget import REFUSAL_SECONDS, Budget
from vireo.server.rpc.caller import caller_in, check_viewer
from vireo.server.rpc.errors import RpcError, ShedError, ShedReason, invalid_argument, unavailable
from vireo.server.rpc.reading import (
    COMPRESSED,
    Context,
    Handler,
    Metadata,
    NoMessageError,
    decompressed,
    only_message,
)
from vireo.server.rpc.spans import begin_server_span, end_server_span
from vireo.server.rpc.streams import STREAM_RETRY, Places, Streams
from vireo.server.rpc.trace import begin_call, exemplar, sendable
from vireo.server.rpc.validation import Rules, validate

log = structlog.get_logger()

REQUEST_ID = "x-request-id"
"""Metadata key: sent by the caller or made here, returned, and in every log line."""
_MAX_REQUEST_ID_LENGTH = 128
_PACKAGES = ("/vireo.", "/inference.")

MAX_RPCS = 2000
"""Maximum concurrent calls of our services, including those whose message hasn't arrived. A caller
at the edge leaves as many to others as it has itself."""
_LIGHT_BYTES = 1 << 10
"""Maximum bytes of a message that is parsed at once, unless it is compressed: as long as a plain
slate's, and checked within half a millisecond whatever it holds. In 16 KiB a thousand almost empty
events take 13."""
_BYTE_SECONDS = 20e-9
"""Cost of a byte of a larger one, if it takes no longer."""
_INVALID_SECONDS = 1e-3
"""Cost of a request that is invalid."""
_MISTAKES = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED)
_RESTS = {ShedReason.BUDGET: REFUSAL_SECONDS, ShedReason.LIMIT: 0.05}
"""Mean delay in seconds of the answer to a call that is shed, by reason: callers who repeat at once
would otherwise make refusals the flood."""
_CALL_SECONDS = 2e-4
"""Cost of a call of a service that states none."""
Answer: TypeAlias = Callable[[Context], Awaitable[Message | None]]
"""Returns the response to a call whose message is read from its context, None once those of a
stream are sent. The call has failed if it raises RpcError."""
Work: TypeAlias = Callable[[Message], float]
"""Returns what the work on a request costs in seconds of the event loop, all that it causes
elsewhere included. It must take next to none itself, and 0 if it isn't worth a charge."""

RPCS = Counter(
    "vireo_rpcs", "Calls that were answered, by full method name and status.", ["method", "code"]
)
_BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 5)
SECONDS = Histogram(
    "vireo_rpc_seconds",
    "Time from the start of a unary call to its answer, whatever its status.",
    ["method"],
    buckets=_BUCKETS,
)
SHED = Counter(
    "vireo_rpcs_shed", "Calls that were shed, by method and reason.", ["method", "reason"]
)


@dataclass(frozen=True)
class ServiceLimits:
    """What limits the calls of one service."""

    admission: Admission | None = None
    """Decides which calls to admit; None for all."""
    rules: Rules | None = None
    """Check requests beyond the protos' rules."""
    work: Work | None = None
    """What callers are charged; None for the same for each request."""
    places: Places | None = None
    """Those of its streams of responses; None for no bound of their own."""
    admitted: frozenset[str] | None = None
    """Names of the methods that `admission` is for; None for all."""


def request_id() -> str:
    """Return the id of the call that is being answered; empty outside of one."""
    found: str = structlog.contextvars.get_contextvars().get("request_id", "")
    return found


class Guard:
    """Wraps our services' methods; for health, reflection and channelz see `standard`.

    Of a stream only the start is admitted: its messages are read as its handler asks for them. A
    stream of responses is work in the background: each is made while no call is under way.

    Health checks are bounded only by the time in which their message must arrive: they show
    whether a server lives, and must be answered under any load.
    """

    def __init__(self, access_log_share: float, max_bytes: int) -> None:
        """Start without services.

        Args:
            access_log_share: share of calls that get a log line.
            max_bytes: maximum bytes of a message of our services.
        """
        self._access_log_share = access_log_share
        self._max_calls = MAX_RPCS
        self._max_bytes = max_bytes
        self.standard_streams = Places(standard.MAX_STREAMS, STREAM_RETRY)
        self._streams = Streams()
        self.limits: dict[str, ServiceLimits] = {}
        """By a service's full name; set before its methods are added."""
        self.answers: dict[str, Answer] = {}
        """What answers a method of our services, by its path."""
        self.budget = Budget()
        self.under_way = 0
        """Calls of our services in flight."""
        self._of_callers = Tally[str]()
        """The same by caller."""
        self._closing = False
        """Whether new calls are refused."""
        self.idle = asyncio.Event()
        """Set while no call is being answered."""
        self.idle.set()

    def close(self) -> None:
        """Refuse new calls with UNAVAILABLE from now on; those in flight continue.

        Streams end with it before their next message.
        """
        self._closing = True
        self._streams.close()

    def guarded(self, method: str, handler: Handler) -> Handler:
        """Return the handler to serve a method with: guarded, explained, or as it is."""
        if method.startswith(standard.PREFIX):
            return standard.explained(handler, self.standard_streams, self.budget)
        if method.startswith(_PACKAGES):
            return self._guard(method, handler)
        return handler

    def _guard(self, method: str, handler: Handler) -> Handler:
        """Return a handler of raw bytes, so that parse errors can be explained.

        It reads the messages itself, the one of a unary method too: a call that is shed isn't read,
        and one that stays silent is soon ended. To the caller it makes no difference.
        """
        answered = RPCS.labels(method, grpc.StatusCode.OK.name)
        seconds = SECONDS.labels(method) if handler.unary_unary is not None else None
        _, service, name = method.split("/")
        limits = self.limits.get(service, ServiceLimits())
        valid = partial(_parse, handler.request_deserializer, self._max_bytes, limits.rules)
        work, places = limits.work or _by_call, limits.places
        admission = limits.admission if name in (limits.admitted or {name}) else None

        async def answer(context: Context) -> Message | None:
            metadata = context.invocation_metadata() or ()

            def parse(raw: bytes) -> Message:
                request = valid(raw)
                check_viewer(method, metadata, request)
                return request

            identity = _caller_id(metadata) or uuid.uuid4().hex
            structlog.contextvars.bind_contextvars(request_id=identity)
            trace = begin_call(metadata)
            begin_server_span(method, trace, identity)
            code = grpc.StatusCode.CANCELLED
            started = time.perf_counter()
            caller = caller_in(metadata)
            self.under_way += 1
            self._of_callers[caller] += 1
            self.idle.clear()
            try:
                if self._closing:
                    raise unavailable("this server shuts down; retry on another one", timedelta(0))
                left = self._max_calls - self.under_way
                # A caller leaves as many to others as it has, however long its calls wait.
                if left < 0 or (caller and self._of_callers[caller] > left):
                    raise ShedError(ShedReason.LIMIT)
                read = partial(self._read, parse, work, caller)
                stream_place = nullcontext() if places is None else places.place(caller)
                response = await self._answer(
                    method, handler, read, context, metadata, identity, admission, stream_place
                )
                code = grpc.StatusCode.OK
            except RpcError as error:
                code = error.code
                if isinstance(error, ShedError):
                    SHED.labels(method, error.reason.name.lower()).inc()
                RPCS.labels(method, error.code.name).inc()
                self._log_access(method, error.code, started)
                if isinstance(error, ShedError) and (rest := _RESTS.get(error.reason)):
                    # Without its message, which the frames of a traceback would keep meanwhile.
                    error.__traceback__ = error.__context__ = None
                    # Not all at the same moment.
                    await asyncio.sleep(random.uniform(0.5, 1.5) * rest)  # noqa: S311
                raise
            except asyncio.CancelledError:
                # The caller has gone, or its deadline has passed.
                RPCS.labels(method, grpc.StatusCode.CANCELLED.name).inc()
                raise
            finally:
                self.under_way -= 1
                if not self.under_way:
                    self.idle.set()
                self._of_callers[caller] -= 1
                if not self._of_callers[caller]:
                    del self._of_callers[caller]
                took = time.perf_counter() - started
                end_server_span(method, trace, identity, code, took, unary=seconds is not None)
                if seconds is not None:
                    seconds.observe(took, exemplar())
            answered.inc()
            self._log_access(method, grpc.StatusCode.OK, started)
            return response

        async def call(_: object, context: Context) -> Message | None:
            try:
                response = await answer(context)
            except RpcError as error:
                details = ("grpc-status-details-bin", error.status())
                await context.abort(
                    error.code, error.message, ((REQUEST_ID, request_id()), details)
                )
            context.set_trailing_metadata(((REQUEST_ID, request_id()),))
            return response

        self.answers[method] = answer
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(call, None, handler.response_serializer)
        return grpc.stream_unary_rpc_method_handler(call, None, handler.response_serializer)

    async def _answer(
        self,
        method: str,
        handler: Handler,
        read: Callable[[bytes], Awaitable[Message]],
        context: Context,
        metadata: Metadata,
        identity: str,
        admission: Admission | None,
        stream_place: AbstractAsyncContextManager[None],
    ) -> Message | None:
        """Return the handler's response to valid requests, None once those of a stream are sent.

        Anything else becomes an RpcError.
        """
        try:
            if admission is not None:
                admission.check(metadata)
            if handler.stream_unary is not None:
                requests = self._streams.receive(context, read)
                streamed: Message = await handler.stream_unary(requests, context)
                return streamed
            request = await read(await only_message(context))
            if handler.unary_stream is not None:
                async with stream_place:
                    responses = handler.unary_stream(request, context)
                    turn = nullcontext if admission is None else admission.background
                    await self._streams.send(responses, context, turn)
                return None
            # Only now: what waits for its caller's turn takes no slots of others.
            async with nullcontext() if admission is None else admission.call(metadata):
                handled: Message = await handler.unary_unary(request, context)
                return handled
        except RpcError as error:
            if error.code in _MISTAKES:
                # Or a caller who repeats it at once would have all of the time for it.
                async with self.budget.turn(caller_in(metadata), _INVALID_SECONDS):
                    raise
            raise
        except NoMessageError as error:
            raise invalid_argument([("", str(error))]) from error
        except Exception as error:
            # Unexpected errors of a handler: the log has the stack trace, the caller the id.
            log.exception("call failed", method=method)
            raise RpcError(
                grpc.StatusCode.INTERNAL,
                f"internal error; the server's log has it under request id {identity}",
            ) from error

    async def _read(
        self, parse: Callable[[bytes], Message], work: Work, caller: str, raw: bytes
    ) -> Message:
        """Return a valid request, once its caller may have it parsed and worked on."""
        turn = self.budget.turn
        light = len(raw) <= _LIGHT_BYTES and not raw.startswith(COMPRESSED)
        async with nullcontext() if light else turn(caller, len(raw) * _BYTE_SECONDS):
            request = parse(raw)
        if cost := work(request):
            async with turn(caller, cost):
                pass
        elif light:
            self.budget.light(caller)
        return request

    def _log_access(self, method: str, code: grpc.StatusCode, started: float) -> None:
        # A sample, since a line costs up to a fifth of the call.
        if random.random() < self._access_log_share:  # noqa: S311
            took = round((time.perf_counter() - started) * 1000, 3)
            log.info("call", method=method, code=code.name, milliseconds=took)


def _by_call(_: Message) -> float:
    return _CALL_SECONDS


def _caller_id(metadata: Metadata) -> str:
    """Return the caller's request id; empty if there is none that can be sent on."""
    for key, value in metadata:
        if key == REQUEST_ID and sendable(value, _MAX_REQUEST_ID_LENGTH):
            return str(value)
    return ""


def _parse(
    deserialize: Callable[[bytes], Message] | None,
    max_bytes: int,
    rules: Rules | None,
    raw: bytes,
) -> Message:
    """Return a valid request; raise RpcError if it isn't."""
    if deserialize is None:
        raise TypeError("the method was registered without a request type")
    raw = decompressed(raw, max_bytes)
    if len(raw) > max_bytes:
        # Without RetryInfo: the same again would be as large.
        raise RpcError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"the message has {len(raw):,} bytes; the maximum is {max_bytes:,}",
        )
    try:
        request = deserialize(raw)
    except DecodeError as error:
        raise invalid_argument([("", f"the request can't be parsed: {error}")]) from error
    # Nobody checks them, and what is recorded or sent on would carry them along.
    request.DiscardUnknownFields()
    validate(request, rules)
    return request
