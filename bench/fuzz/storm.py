"""Send the requests, some at a time, and count the statuses that they end with."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from bench.fuzz.calls import GrpcCaller
from bench.fuzz.frames import BROKEN, ask_by_frames
from bench.fuzz.rest import OVERRIDDEN, ask_with_query, rules
from bench.fuzz.targets import Method

UNWANTED = frozenset({"UNKNOWN", "INTERNAL", "DATA_LOSS", "HUNG", BROKEN, OVERRIDDEN})
"""Statuses that bad input must not get: a clear one says what is wrong with it."""
_AT_A_TIME = 12
_FRAMES_SHARE = 0.05
"""Share of requests below gRPC; each takes a connection of its own."""
_QUERY_SHARE = 0.2
"""Share of requests by REST, of methods that have it; each takes a connection of its own."""
_MAX_EXAMPLES = 5


@dataclass
class Counts:
    """Statuses that the requests ended with."""

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
        if status in UNWANTED:
            examples = self.unwanted.setdefault(f"{method.name} {status}", [])
            if len(examples) < _MAX_EXAMPLES:
                examples.append(f"{how}:{message}")

    def _must_end(self, method: Method, how: str) -> bool:
        """Return whether the server bounds how long this caller may stay silent.

        The edge forwards a call once it has arrived completely, and ends one that doesn't by its
        own timeouts, which are longer than these callers stay.
        """
        edge, streams = method.place == "edge", method.descriptor.client_streaming
        return how.endswith("silent") and not (edge or streams)


async def storm(
    methods: Sequence[Method], requests: int, seed: int, progress: Callable[[int], None]
) -> Counts:
    """Send requests to the methods in turn.

    Args:
        methods: what to call.
        requests: how many requests to send.
        seed: the same seed makes the same requests.
        progress: called after each request with the number that have ended.
    """
    counts = Counts()
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
