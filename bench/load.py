"""Load on the edge: requests leave on a schedule, whether or not answers come back, or in turn."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
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
_CLOSED_SECONDS = 10.0


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
    """gRPC status and details if the call failed; then all else is empty."""
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
        self._target, self._viewers = target, viewers
        self._rate, self._deadline = rate, deadline
        self._moment = int(time.time()) if moment is None else moment
        self._stopping = asyncio.Event()

    async def __aenter__(self) -> SteadyLoad:
        """Begin."""
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End, once every request that has left is answered; raise what went wrong in it."""
        self._stopping.set()
        await self._running

    async def _run(self) -> None:
        # Among so many answers Python's collector would stop everything for 0.1 s.
        gc.collect()
        gc.disable()
        try:
            async with _stubs(self._target) as stubs, asyncio.TaskGroup() as calls:
                start = time.monotonic()
                for number in count():
                    at = start + number / self._rate
                    await asyncio.sleep(max(0.0, at - time.monotonic()))
                    if self._stopping.is_set():
                        return
                    self.departures.append(time.monotonic() - at)
                    # Bounded: each ends by its deadline.
                    calls.create_task(self._answer(stubs[number % _CHANNELS], number, at))
        finally:
            gc.enable()

    async def _answer(self, stub: _Stub, number: int, at: float) -> None:
        viewer = self._viewers[number % len(self._viewers)]
        self.answers.append(await _ask(stub, viewer, at, self._deadline, self._moment))


async def closed_load(
    target: str, viewers: Sequence[str], callers: int, seconds: float
) -> list[Answer]:
    """Have a few callers ask for a while, each again once it has its answer."""
    answers: list[Answer] = []
    moment, until = int(time.time()), time.monotonic() + seconds

    async def call(stub: _Stub, numbers: Sequence[str]) -> None:
        for number in count():
            if (at := time.monotonic()) > until:
                return
            viewer = numbers[number % len(numbers)]
            answers.append(await _ask(stub, viewer, at, _CLOSED_SECONDS, moment))

    async with _stubs(target) as stubs, asyncio.TaskGroup() as group:
        for number in range(callers):
            own = viewers[number % len(viewers) :: callers]
            group.create_task(call(stubs[number % _CHANNELS], own))
    return answers


@asynccontextmanager
async def _stubs(target: str) -> AsyncIterator[list[_Stub]]:
    """Yield stubs of a few connections to the edge."""
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)])
            )
            for _ in range(_CHANNELS)
        ]
        yield [recommendation_pb2_grpc.RecommendationServiceStub(each) for each in channels]


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
    """Return the 99th percentile of the answers' times, seconds; NaN of none."""
    seconds = [answer.seconds for answer in answers]
    return float(np.percentile(seconds, 99)) if seconds else float("nan")
