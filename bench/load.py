"""Load on the edge: open loop on a schedule, or closed loop; every answer is kept."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc
import numpy as np

from vireo.v1 import recommendation_pb2, recommendation_pb2_grpc

if TYPE_CHECKING:
    _Stub: TypeAlias = recommendation_pb2_grpc.RecommendationServiceAsyncStub

Metadata: TypeAlias = tuple[tuple[str, str], ...]
Item = TypeVar("Item")

PAGE = 10
"""Videos asked for."""
_CHANNELS = 4
"""Connections, so that each of Envoy's threads has some."""
_CLOSED_SECONDS = 10.0


@dataclass(frozen=True)
class Answer:
    """The answer to one request."""

    viewer_id: str
    at: float
    """Scheduled departure, `time.monotonic` seconds."""
    seconds: float
    """From then to the answer, so that it includes the delay of a generator that falls behind."""
    items: tuple[str, ...] = ()
    release_id: str = ""
    degradations: tuple[int, ...] = ()
    failure: str = ""
    """gRPC status and details if the call failed; then all else is empty."""
    scores: tuple[float, ...] = ()
    """One for each item."""


class SteadyLoad:
    """An open loop that asks for viewers' slates in turn. Use it as a context."""

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
            viewers: ids to ask for.
            rate: requests a second.
            deadline: of each request, seconds.
            moment: Unix seconds that slates are for, now if None; the same in all requests, so
                that a viewer's slates are the same.
        """
        self.answers: list[Answer] = []
        """Everything that has come back, in that order."""
        self.departures: list[float] = []
        """Seconds by which each request left late."""
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
        # With this many objects a garbage collection would stop everything for 0.1 s.
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
    target: str,
    viewers: Sequence[str],
    callers: int,
    seconds: float,
    *,
    further: int = 0,
    deadline: Callable[[], float] = lambda: _CLOSED_SECONDS,
    metadata: Metadata = (),
) -> list[Answer]:
    """Return the answers to callers of whom each asks again as soon as it is answered or refused.

    Args:
        target: host:port of the edge.
        viewers: ids to ask for.
        callers: number of callers.
        seconds: for how long they ask.
        further: number of requests that they send after that.
        deadline: returns the deadline of a request in seconds.
        metadata: further headers of each request.
    """
    answers: list[Answer] = []
    moment, until = int(time.time()), time.monotonic() + seconds
    later = 0

    async def call(number: int) -> None:
        nonlocal later
        stub = stubs[number % _CHANNELS]
        for turn in count(number, callers):
            if (at := time.monotonic()) > until:
                if later >= further:
                    return
                later += 1
            viewer = viewers[turn % len(viewers)]
            answers.append(await _ask(stub, viewer, at, deadline(), moment, metadata))

    async with _stubs(target) as stubs:
        await for_each(range(callers), call, callers)
    return answers


@asynccontextmanager
async def _stubs(target: str) -> AsyncIterator[list[_Stub]]:
    """Yield stubs of a few connections to the edge."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with AsyncExitStack() as stack:
        channels = (grpc.aio.insecure_channel(target, options) for _ in range(_CHANNELS))
        opened = [await stack.enter_async_context(channel) for channel in channels]
        yield [recommendation_pb2_grpc.RecommendationServiceStub(each) for each in opened]


async def _ask(
    stub: _Stub,
    viewer: str,
    at: float,
    deadline: float,
    moment: int,
    metadata: Metadata = (),
) -> Answer:
    request = recommendation_pb2.RecommendRequest(viewer_id=viewer, page_size=PAGE)
    request.context.time.FromSeconds(moment)
    try:
        response = await stub.Recommend(request, timeout=deadline, metadata=metadata)
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
    """Return the 99th percentile of the answers' latencies in seconds; NaN without answers."""
    seconds = [answer.seconds for answer in answers]
    return float(np.percentile(seconds, 99)) if seconds else float("nan")


async def for_each(
    items: Iterable[Item], do: Callable[[Item], Awaitable[None]], at_a_time: int
) -> None:
    """Do something for each item, for some at a time."""
    waiting = iter(items)

    async def some() -> None:
        for item in waiting:
            await do(item)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(at_a_time):
            tasks.create_task(some())


@asynccontextmanager
async def beside(happens: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Let faults or load happen during the block; raise what ended them before it, if anything did.

    Without them the figures of the block would say nothing.
    """
    happening = asyncio.create_task(happens)
    try:
        yield
    finally:
        ended = happening.done()
        happening.cancel()
        await asyncio.wait([happening])
    if ended:
        happening.result()
