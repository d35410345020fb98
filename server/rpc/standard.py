"""Health, reflection and channelz: what users of grpcurl and operators expect of every server.

Invalid requests are explained, and streams are limited. Health's servicer is our own: grpcio's
writes to watchers while it holds the lock that a change of status needs, so that a watcher that
doesn't read would keep a server from ever reporting that it shuts down. Reflection describes our
services with the JSON names of fields, which the descriptors inside Python's stubs lack: a client
that prints JSON by reflection, grpcurl for example, would name fields differently than REST does.
"""

from __future__ import annotations

import asyncio
import importlib.resources
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import _async as reflection
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from vireo.server.rpc.budget import Budget
from vireo.server.rpc.caller import caller_of
from vireo.server.rpc.errors import RpcError, invalid_argument
from vireo.server.rpc.reading import Context, Handler, NoMessageError, decompressed, only_message
from vireo.server.rpc.streams import MAX_STREAM_SECONDS, Places

PREFIX = "/grpc."
"""Prefix of the paths of their methods."""

MAX_STREAMS = 200
"""Maximum concurrent streams: health watches and reflection."""

_MAX_BYTES = 64 << 10
"""Maximum bytes to which a message of theirs is decompressed."""
_MESSAGE_SECONDS = 5e-3
"""Cost of a message of a stream: what reflection answers with may have 100 KB. A client asks for
some ten."""


@asynccontextmanager
async def _errors_sent(context: Context) -> AsyncIterator[None]:
    """Abort a call with the error of the block, if it is one for the caller."""
    try:
        try:
            yield
        except NoMessageError as error:
            raise invalid_argument([("", str(error))]) from error
    except RpcError as error:
        details = (("grpc-status-details-bin", error.status()),)
        await context.abort(error.code, error.message, details)


def explained(handler: Handler, places: Places, budget: Budget) -> Handler:
    """Return the handler, but with INVALID_ARGUMENT for a request that is missing or invalid.

    gRPC itself would leave a call without a message open until its deadline, if it has one, and
    respond UNKNOWN to bytes that aren't a message. Like the guard, this reads the one message
    of a call itself; to the caller it makes no difference.

    Args:
        handler: the handler of any method of these services.
        places: those of streams, apart from calls.
        budget: charges the caller with each message of a stream of them.
    """

    def parsed(raw: bytes) -> Message:
        try:
            message: Message = handler.request_deserializer(raw)
        except DecodeError as error:
            raise invalid_argument([("", f"the request can't be parsed: {error}")]) from error
        return message

    async def messages(context: Context) -> AsyncIterator[Message]:
        """Yield messages until the caller ends its side; the first must arrive within seconds."""
        try:
            raw: Any = await only_message(context)
        except NoMessageError:
            return  # it sends nothing, and gets nothing
        caller = caller_of(context)
        while raw is not grpc.aio.EOF:
            async with budget.turn(caller, _MESSAGE_SECONDS):
                pass
            yield parsed(raw)
            raw = await context.read()

    async def answer(_: object, context: Context) -> Message:
        async with _errors_sent(context):
            request = parsed(await only_message(context))
            response: Message = await handler.unary_unary(request, context)
        return response

    async def stream(_: object, context: Context) -> None:
        async with _errors_sent(context), places.place(caller_of(context)):
            with suppress(TimeoutError):  # it ends with OK once its time is over
                async with asyncio.timeout(MAX_STREAM_SECONDS):
                    if handler.unary_stream is not None:  # health's, which writes to the context
                        await handler.unary_stream(parsed(await only_message(context)), context)
                        return
                    async for response in handler.stream_stream(messages(context), context):
                        await context.write(response)

    read = partial(decompressed, max_bytes=_MAX_BYTES)
    if handler.unary_unary is not None:
        return grpc.stream_unary_rpc_method_handler(answer, read, handler.response_serializer)
    return grpc.stream_stream_rpc_method_handler(stream, read, handler.response_serializer)


Status = health_pb2.HealthCheckResponse


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Reports the status of each service by its full name, and of the server as a whole by ""."""

    def __init__(self) -> None:
        """Start as SERVING, without services."""
        self._statuses = {"": Status.SERVING}
        self._changed = asyncio.Event()
        self._stopping = False

    def set(self, service: str, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        """Set a service's status; ignored once the server stops."""
        if self._stopping:
            return
        self._statuses[service] = status
        self._changed.set()
        self._changed = asyncio.Event()

    def stop(self) -> None:
        """Report every service as NOT_SERVING from now on."""
        for service in self._statuses:
            self.set(service, Status.NOT_SERVING)
        self._stopping = True

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> Status:  # noqa: N802
        """Return the status; NOT_FOUND for an unknown service."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return Status(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:  # noqa: N802
        """Write the status now and whenever it changes; SERVICE_UNKNOWN if there is none."""
        written = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, Status.SERVICE_UNKNOWN)
            if status != written:
                await context.write(Status(status=status))
                written = status
            await changed.wait()


_ALPHA = "grpc.reflection.v1alpha"
_V1 = "grpc.reflection.v1"
_SERVICE = "ServerReflection"


def add_reflection(methods: Any, services: Iterable[str]) -> None:
    """Add both versions of reflection to a server, which have one servicer.

    Args:
        methods: adds to the server.
        services: full names of its services except reflection.
    """
    names = [*services, f"{_ALPHA}.{_SERVICE}", f"{_V1}.{_SERVICE}"]
    pool = _described(names)
    servicer = reflection.ReflectionServicer(names, pool=pool)  # type: ignore[no-untyped-call]
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, methods)  # type: ignore[no-untyped-call]
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    methods.add_registered_method_handlers(f"{_V1}.{_SERVICE}", {"ServerReflectionInfo": method})


def _v1_file() -> bytes:
    """Return the proto of v1, which Python's package lacks: v1alpha's with other names."""
    alpha = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
    renamed = text_format.MessageToString(alpha).replace(_ALPHA, _V1)
    file = text_format.Parse(renamed, descriptor_pb2.FileDescriptorProto())
    file.name = "grpc/reflection/v1/reflection.proto"
    return file.SerializeToString()


def _described(services: Iterable[str]) -> DescriptorPool:
    """Return a pool of our protos, and of those of other services with all that they import."""
    packaged = importlib.resources.files("vireo") / "descriptors.binpb"
    described = descriptor_pb2.FileDescriptorSet.FromString(packaged.read_bytes()).file
    files = {file.name: file.SerializeToString() for file in described}
    for service in services:
        with suppress(KeyError):  # v1 of reflection, which Python's packages lack
            _add(descriptor_pool.Default().FindFileContainingSymbol(service), files)
    pool = DescriptorPool()
    pool.AddSerializedFile(_v1_file())
    for file in files.values():
        pool.AddSerializedFile(file)
    return pool


def _add(file: FileDescriptor, files: dict[str, bytes]) -> None:
    """Add a file to `files` unless it is there, after all that it imports."""
    if file.name not in files:
        for imported in file.dependencies:
            _add(imported, files)
        files[file.name] = file.serialized_pb
