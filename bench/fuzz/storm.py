"""Sends the requests, some at a time, and counts what they end with."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from bench.fuzz.calls import GrpcCaller
from bench.fuzz.frames import ask_by_frames
from bench.fuzz.targets import Method

UNWANTED = frozenset({"UNKNOWN", "INTERNAL", "DATA_LOSS", "HUNG"})
"""What bad input must not end with: a clear status says what is wrong with it."""
_AT_A_TIME = 12
_FRAMES_SHARE = 0.05
"""Share of requests that are below gRPC: each takes a connection of its own."""
_MOST_EXAMPLES = 5


@dataclass
class Counts:
    """What the requests ended with."""

    requests: int = 0
    answers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """By method and status."""
    unwanted: dict[str, list[str]] = field(default_factory=dict)
    """Examples by method and status: how the request was spoilt, and what was answered."""

    def add(self, method: Method, how: str, ended: str) -> None:
        """Counts a request that ended with a status, and what else was said after a colon."""
        status, _, words = ended.partition(":")
        self.requests += 1
        self.answers[method.name][status] += 1
        if status in UNWANTED:
            examples = self.unwanted.setdefault(f"{method.name} {status}", [])
            if len(examples) < _MOST_EXAMPLES:
                examples.append(f"{how}:{words}")


async def storm(
    methods: Sequence[Method],
    requests: int,
    seed: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Counts:
    """Sends that many requests to the methods in turn.

    Args:
        methods: whom to ask for what.
        requests: how many requests.
        seed: the same seed makes the same requests.
        progress: told how many have ended, after each.
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
            else:
                how, ended = await caller.ask(random, method)
            counts.add(method, how, ended)
            progress(counts.requests)

    try:
        await asyncio.gather(*(work() for _ in range(_AT_A_TIME)))
    finally:
        await caller.close()
    return counts
