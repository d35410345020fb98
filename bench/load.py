"""Load on the edge: requests leave on a schedule, whether or not answers come back, or in turn."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import grpc
import numpy as np
from vireo.v1 import recommendation_pb2, recommendation_pb2_grpc

if TYPE_CHECKING:
    _Stub: TypeAlias = recommendation_pb2_grpc.RecommendationServiceAsyncStub

PAGE = 10
"""Videos asked for."""
_CHANNELS = 4
"""Connections, so that Envoy's threads all have some."""


@dataclass(frozen=True)
class Answer:
    """What came back for one request."""

    viewer_id: str
    at: float
    """When it was to leave, `time.monotonic` seconds."""
    seconds: float
    """From then to the answer: a generator that falls behind doesn't hide it."""
    items: tuple[str, ...] = ()
    release_id: str = ""
    degradations: tuple[int, ...] = ()
    failure: str = ""
    """gRPC status and details where the call failed; then all else is empty."""
    scores: tuple[float, ...] = ()
    """As many as items."""


class SteadyLoad:
    """Asks for viewers' slates, one after the other and over again. Use it as a context."""

    def __init__(
        self,
        target: str,
        viewers: Sequence[str],
        rate: float,
        deadline: float = 2.0,
        moment: int | None = None,
    ) -> None:
        """Prepare the load.

        Args:
            target: host:port of the edge.
            viewers: whom to ask for.
            rate: requests a second.
            deadline: seconds that each may take.
            moment: when slates are said to be shown, Unix seconds; now if None. It is the same in
                all requests, so that a viewer's slates are.
        """
        self.answers: list[Answer] = []
        """Everything that has come back, in the order in which it did."""
        self.departures: list[float] = []
        """By how many seconds each request left late."""
        self._target = target
        self._viewers = viewers
        self._rate = rate
        self._deadline = deadline
        self._moment = int(time.time()) if moment is None else moment
        self._stopping = asyncio.Event()

    async def __aenter__(self) -> SteadyLoad:
        """Begins."""
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ends, once every request that has left is answered; raises what went wrong in it."""
        self._stopping.set()
        await self._running

    async def _run(self) -> None:
        async with _stubs(self._target) as stubs, asyncio.TaskGroup() as calls:
            with _no_collection():
                await self._send(stubs, calls)

    async def _send(self, stubs: Sequence[_Stub], calls: asyncio.TaskGroup) -> None:
        start, number = time.monotonic(), 0
        while not self._stopping.is_set():
            at = start + number / self._rate
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            self.departures.append(time.monotonic() - at)
            viewer = self._viewers[number % len(self._viewers)]
            # Bounded: each ends by its deadline.
            calls.create_task(self._answer(stubs[number % len(stubs)], viewer, at))
            number += 1

    async def _answer(self, stub: _Stub, viewer: str, at: float) -> None:
        self.answers.append(await _ask(stub, viewer, at, self._deadline, self._moment))


class ClosedLoad:
    """A few callers, each of whom asks again once it has its answer. Use it as a context."""

    def __init__(
        self, target: str, viewers: Sequence[str], callers: int, deadline: float = 10.0
    ) -> None:
        """Takes the edge, whom to ask for, how many callers, and each request's deadline."""
        self.answers: list[Answer] = []
        """Everything that has come back, in the order in which it did."""
        self._target = target
        self._viewers = viewers
        self._callers = callers
        self._deadline = deadline
        self._moment = int(time.time())
        self._stopping = asyncio.Event()

    async def __aenter__(self) -> ClosedLoad:
        """Begins."""
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ends, once every request that has left is answered; raises what went wrong in it."""
        self._stopping.set()
        await self._running

    async def _run(self) -> None:
        async with _stubs(self._target) as stubs, asyncio.TaskGroup() as callers:
            for number in range(self._callers):
                callers.create_task(self._call(stubs[number % len(stubs)], number))

    async def _call(self, stub: _Stub, number: int) -> None:
        while not self._stopping.is_set():
            viewer = self._viewers[number % len(self._viewers)]
            at = time.monotonic()
            self.answers.append(await _ask(stub, viewer, at, self._deadline, self._moment))
            number += self._callers


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keeps Python's collector out: among so many answers it would stop everything for 0.1 s."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@asynccontextmanager
async def _stubs(target: str) -> AsyncIterator[list[_Stub]]:
    """Stubs of a few connections to the edge."""
    channels = [
        grpc.aio.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)])
        for _ in range(_CHANNELS)
    ]
    try:
        yield [recommendation_pb2_grpc.RecommendationServiceStub(each) for each in channels]
    finally:
        for channel in channels:
            await channel.close()


async def _ask(stub: _Stub, viewer: str, at: float, deadline: float, moment: int) -> Answer:
    request = recommendation_pb2.RecommendRequest(viewer_id=viewer, page_size=PAGE)
    request.context.time.FromSeconds(moment)
    try:
        response = await stub.Recommend(request, timeout=deadline)
    except grpc.aio.AioRpcError as error:
        failure = f"{error.code().name}: {error.details()}"
        return Answer(viewer, at, time.monotonic() - at, failure=failure)
    return Answer(
        viewer,
        at,
        time.monotonic() - at,
        tuple(item.video_id for item in response.items),
        response.release_id,
        tuple(response.degradations),
        scores=tuple(item.score for item in response.items),
    )


def p99(answers: Sequence[Answer]) -> float:
    """The 99th percentile of the answers' times, seconds; NaN of none."""
    seconds = [answer.seconds for answer in answers]
    return float(np.percentile(seconds, 99)) if seconds else float("nan")
