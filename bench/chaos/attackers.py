"""Callers without a token who hold or waste whatever they can get."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from random import Random
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vireo.v1.recommendation_pb2 import RecommendRequest
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

_CONNECTIONS = 20
_RECOMMEND = "/vireo.v1.RecommendationService/Recommend"
_MAX_WAIT = 0.03
"""Seconds within which a call is abandoned: before, during or after its work."""
_DEADLINE = 600.0


class Attackers:
    """Attacks on the edge. Use it as a context: at its end all leave."""

    def __init__(self, target: str, viewers: Sequence[str], seed: int = 0) -> None:
        """Start with no call; `target` is the edge, `viewers` are whom to ask for."""
        self.ended: Counter[str] = Counter()
        """How many calls ended, by kind and status."""
        self._target = target
        self._viewers = viewers
        self._random = Random(seed)  # noqa: S311
        self._channels: list[grpc.aio.Channel] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Attackers:
        """Connect."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [
            grpc.aio.insecure_channel(self._target, options) for _ in range(_CONNECTIONS)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Abandon every call that is still open."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel in self._channels:
            await channel.close()

    async def watch(self, count: int, rate: float) -> None:
        """Open `count` health watches at a rate, and hold them."""
        async for channel in self._paced(count, rate):
            stub: Any = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
            call = stub.Watch(health_pb2.HealthCheckRequest(), metadata=self._forged())
            self._hold(self._until_ended("watch", call))

    async def stay_silent(self, count: int, rate: float) -> None:
        """Open `count` calls at a rate, every other without a deadline, and send no message."""
        number = itertools.count()
        async for channel in self._paced(count, rate):
            method: Any = channel.stream_unary(_RECOMMEND)
            timeout = _DEADLINE if next(number) % 2 else None
            call = method(timeout=timeout, metadata=self._forged())
            self._hold(self._until_ended("silent", call))

    async def abandon(self, count: int, rate: float) -> None:
        """Ask for `count` slates at a rate, and abandon each at random."""
        async for channel in self._paced(count, rate):
            self._hold(self._abandoned(RecommendationServiceStub(channel)))

    async def _paced(self, count: int, rate: float) -> AsyncIterator[grpc.aio.Channel]:
        clock = asyncio.get_running_loop().time
        start = clock()
        for number in range(count):
            await asyncio.sleep(max(0.0, start + number / rate - clock()))
            yield self._channels[number % _CONNECTIONS]

    def _hold(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _forged(self) -> tuple[tuple[str, str], ...]:
        address = ".".join(str(self._random.randrange(1, 255)) for _ in range(4))
        return (("x-forwarded-for", address),)

    async def _until_ended(self, kind: str, call: Any) -> None:
        try:
            self.ended[f"{kind} {(await call.code()).name}"] += 1
        finally:
            call.cancel()

    async def _abandoned(self, stub: Any) -> None:
        request = RecommendRequest(viewer_id=self._random.choice(self._viewers))
        call = stub.Recommend(request, timeout=_DEADLINE, metadata=self._forged())
        await asyncio.sleep(self._random.uniform(0, _MAX_WAIT))
        call.cancel()
        self.ended[f"abandoned {(await call.code()).name}"] += 1
