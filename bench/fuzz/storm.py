"""Send the requests, some at a time, and count the statuses that they end with."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from urllib.parse import unquote

from bench.fuzz.calls import GrpcCaller
from bench.fuzz.frames import BROKEN, ask_by_frames
from bench.fuzz.rest import OVERRIDDEN, ask_with_query, rules
from bench.fuzz.targets import Method

UNWANTED = frozenset({"UNKNOWN", "INTERNAL", "DATA_LOSS", "HUNG", BROKEN, OVERRIDDEN})
"""Statuses that bad input must not get: a clear one says what is wrong with it."""
_NATIVE_FRAMES = (
    "Missing request message.",
    "Unexpected EOF decoding stream.",
    "protocol error: received message with invalid compression flag: ",
    "protocol error: received message with compressed-flag but no grpc-encoding was specified",
)
"""What VIREO_TRANSPORT=native says, below the guard, of frames that aren't one message: all that it
has for a request that declares no compression. INTERNAL is gRPC's status for them."""
_NATIVE_HEADERS = (
    "Received http2 header with status: 431",
    "Stream removed (RST_STREAM (Received RST_STREAM with error code 1))",
)
"""What gRPC's client says of its two answers to too many headers: an HTTP status, and a reset with
PROTOCOL_ERROR."""
_NATIVE_PLACES = ("candidate", "ranking")
_AT_A_TIME = 12
_FRAMES_SHARE = 0.05
"""Share of requests below gRPC; each takes a connection of its own."""
_QUERY_SHARE = 0.2
"""Share of requests by REST, of methods that have it; each takes a connection of its own."""
_MAX_EXAMPLES = 5


@dataclass
class Counts:
    """Statuses that the requests ended with."""

    transport: str
    """VIREO_TRANSPORT of candidate and ranking pods."""
    requests: int = 0
    answers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """By method and status."""
    unwanted: dict[str, list[str]] = field(default_factory=dict)
    """Examples by method and status: how the request was spoilt, and the message."""

    def add(self, method: Method, how: str, ended: str) -> None:
        """Count a request that ended with a status, and any message after a colon."""
        status, _, message = ended.partition(":")
        if status == "DEADLINE_EXCEEDED" and self._must_end(method, how):
            status = "HUNG"
        self.requests += 1
        self.answers[method.name][status] += 1
        if status in UNWANTED and not self._is_native(method, how, message):
            examples = self.unwanted.setdefault(f"{method.name} {status}", [])
            if len(examples) < _MAX_EXAMPLES:
                examples.append(f"{how}:{message}")

    def _must_end(self, method: Method, how: str) -> bool:
        """Return whether the server bounds how long this caller may stay silent.

        The edge forwards a call once it has arrived completely, and ends one that doesn't by its
        own timeouts, which are longer than these callers stay.
        """
        native = self.transport == "native" and method.place in _NATIVE_PLACES
        edge, streams = method.place == "edge", method.descriptor.client_streaming
        return how.endswith("silent") and not (native or edge or streams)

    def _is_native(self, method: Method, how: str, message: str) -> bool:
        """Return whether this is the native transport's own message."""
        if self.transport != "native" or method.place not in _NATIVE_PLACES:
            return False
        texts = (*_NATIVE_FRAMES, *_NATIVE_HEADERS) if how.endswith("headers") else _NATIVE_FRAMES
        return unquote(message).lstrip().startswith(texts)


async def storm(
    methods: Sequence[Method],
    requests: int,
    seed: int,
    transport: str,
    progress: Callable[[int], None],
) -> Counts:
    """Send requests to the methods in turn.

    Args:
        methods: what to call.
        requests: how many requests to send.
        seed: the same seed makes the same requests.
        transport: VIREO_TRANSPORT of candidate and ranking pods.
        progress: called after each request with the number that have ended.
    """
    counts = Counts(transport)
    numbers = iter(range(requests))
    caller = GrpcCaller()

    async def work() -> None:
        for number in numbers:
            random = Random(f"{seed} {number}")  # noqa: S311
            method = methods[number % len(methods)]
            if random.random() < _FRAMES_SHARE:
                how, ended = await ask_by_frames(random, method)
            elif rules(method) and random.random() < _QUERY_SHARE:
                how, ended = await ask_with_query(random, method)
            else:
                how, ended = await caller.ask(random, method)
            counts.add(method, how, ended)
            progress(counts.requests)

    try:
        await asyncio.gather(*(work() for _ in range(_AT_A_TIME)))
    finally:
        await caller.close()
    return counts
