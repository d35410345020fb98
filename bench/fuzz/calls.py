"""Calls by gRPC's own client: the request is bytes, and the caller may misbehave."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor

from bench.fuzz.messages import WAYS, spoilt, valid

_DEADLINE = 10.0
_OPEN_DEADLINES = {"silent": 3.0, "never ends": 1.0}
"""Seconds granted to calls that the caller keeps open: servers answer the one message at once, and
end a silent call after 2 s."""
_HANGING = 0.05
"""Seconds for which a caller that sends nothing more stays."""
_OPTIONS = (
    # The client must send what the server must refuse.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_metadata_size", 1 << 20),
    ("grpc.use_local_subchannel_pool", 1),
)
_MANNERS = ("well", "no message", "two messages", "never ends", "leaves", "slow reader", "headers")
_ILL_SHARE = 0.2
_SILENT_SHARE = 0.001
"""Share of callers that open a call and send nothing: each stays for seconds."""
_MESSAGES = {"no message": 0, "two messages": 2, "never ends": 1, "silent": 0}
"""Number of messages; all others send one with the call itself."""
_ENDED_EARLY = ": Internal error from Core"
_FORGED_SHARE = 0.2
_BULKY = frozenset({"giant list", "giant text", "deep", "unknown field"})
_BULKY_SHARE = 0.2

_Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]
_Conversation: TypeAlias = grpc.aio.StreamStreamCall[bytes, bytes]


@dataclass(frozen=True)
class Method:
    """A method at one place."""

    place: str
    """The edge, or a kind of pod."""
    address: str
    """host:port"""
    descriptor: MethodDescriptor

    @property
    def path(self) -> str:
        """The `:path` of a call."""
        return f"/{self.descriptor.containing_service.full_name}/{self.descriptor.name}"

    @property
    def name(self) -> str:
        """Its name in results: the place, the service and the method."""
        return f"{self.place} {self.path[1:]}"


class GrpcCaller:
    """Calls any method, over one channel for each address."""

    def __init__(self) -> None:
        """Start without channels. Use it from one event loop, and close it in the end."""
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def close(self) -> None:
        """Close the channels."""
        for channel in self._channels.values():
            await channel.close()

    async def ask(self, random: Random, method: Method) -> tuple[str, str]:
        """Make one call; return how it was spoilt, and the status that it ended with."""
        ways = [way for way in WAYS if way not in _BULKY or random.random() < _BULKY_SHARE]
        way = random.choice(ways)
        manner = random.choice(_MANNERS) if random.random() < _ILL_SHARE else "well"
        if random.random() < _SILENT_SHARE:
            manner = "silent"
        data = spoilt(random, way, valid(random, method.descriptor.input_type))
        return f"{way}, {manner}", await self._call(random, method, data, manner)

    async def _call(self, random: Random, method: Method, data: bytes, manner: str) -> str:
        channel = self._channels.get(method.address)
        if channel is None:
            channel = grpc.aio.insecure_channel(method.address, _OPTIONS)
            self._channels[method.address] = channel
        metadata = _flood(random) if manner == "headers" else _forged(random)
        timeout = _OPEN_DEADLINES.get(manner, _DEADLINE)
        call: _Conversation | grpc.aio.UnaryStreamCall[bytes, bytes]
        if manner in _MESSAGES:
            converse: Any = channel.stream_stream(method.path)
            call = converse(timeout=timeout, metadata=metadata)
        else:
            ask: Any = channel.unary_stream(method.path)
            call = ask(data, timeout=timeout, metadata=metadata)
        try:
            # A write fails if the call has ended; its status says why.
            with suppress(grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
                if isinstance(call, grpc.aio.StreamStreamCall):
                    await _converse(call, data, manner)
                if manner == "leaves":
                    call.cancel()
                    return "CANCELLED: left"
                if manner == "slow reader":
                    await asyncio.sleep(_HANGING)
                if await call.read() is not grpc.aio.EOF:
                    return "OK"  # a watch has more to send
            status = f"{(await call.code()).name}: {await call.details()}"
        finally:
            call.cancel()
        # What the client says of a server that has answered before all was sent.
        return "ENDED EARLY" if status.endswith(_ENDED_EARLY) else status


async def _converse(call: _Conversation, data: bytes, manner: str) -> None:
    """Send any number of messages but one, or none to the end."""
    for _ in range(_MESSAGES[manner]):
        await call.write(data)
    if manner == "silent":
        await call.wait_for_connection()
        await call.read()  # until the server ends the call
    elif manner == "never ends":
        await asyncio.sleep(_HANGING)
    else:
        await call.done_writing()


def _forged(random: Random) -> _Metadata:
    """Return an address that some callers claim to have."""
    if random.random() > _FORGED_SHARE:
        return ()
    claimed = random.choice(("10.1.2.3", "::1", "unknown", "1.2.3.4, 5.6.7.8", "x" * 300, ","))
    return (("x-forwarded-for", claimed),)


def _flood(random: Random) -> _Metadata:
    """Return many headers, or a large one."""
    count, size = random.choice(((900, 20), (90, 500), (1, 50_000), (1, 200_000), (5_000, 3)))
    text = "y" * size
    return (*((f"x-{number}", text) for number in range(count)), ("x-a-bin", b"\xff\0"))
