"""Steady load on the edge: requests leave on a schedule, whether or not answers come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import numpy as np
from vireo.v1 import recommendation_pb2, recommendation_pb2_grpc

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


class SteadyLoad:
    """Asks for viewers' slates, one after the other and over again. Use it as a context."""

    def __init__(
        self, target: str, viewers: Sequence[str], rate: float, deadline: float = 2.0
    ) -> None:
        """Takes the edge, whom to ask for, requests a second, and each one's deadline."""
        self.answers: list[Answer] = []
        """Everything that has come back, in the order in which it did."""
        self._target = target
        self._viewers = viewers
        self._rate = rate
        self._deadline = deadline
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
        channels = [
            grpc.aio.insecure_channel(self._target, [("grpc.use_local_subchannel_pool", 1)])
            for _ in range(_CHANNELS)
        ]
        stubs = [recommendation_pb2_grpc.RecommendationServiceStub(each) for each in channels]
        start, number = time.monotonic(), 0
        async with asyncio.TaskGroup() as calls:
            while not self._stopping.is_set():
                at = start + number / self._rate
                await asyncio.sleep(max(0.0, at - time.monotonic()))
                viewer = self._viewers[number % len(self._viewers)]
                # Bounded: each ends by its deadline.
                calls.create_task(self._ask(stubs[number % _CHANNELS], viewer, at))
                number += 1
        for channel in channels:
            await channel.close()

    async def _ask(
        self,
        stub: recommendation_pb2_grpc.RecommendationServiceAsyncStub,
        viewer: str,
        at: float,
    ) -> None:
        request = recommendation_pb2.RecommendRequest(viewer_id=viewer, page_size=PAGE)
        try:
            response = await stub.Recommend(request, timeout=self._deadline)
        except grpc.aio.AioRpcError as error:
            failure = f"{error.code().name}: {error.details()}"
            self.answers.append(Answer(viewer, at, time.monotonic() - at, failure=failure))
            return
        self.answers.append(
            Answer(
                viewer,
                at,
                time.monotonic() - at,
                tuple(item.video_id for item in response.items),
                response.release_id,
                tuple(response.degradations),
            )
        )


def p99(answers: Sequence[Answer]) -> float:
    """The 99th percentile of the answers' times, seconds; NaN of none."""
    seconds = [answer.seconds for answer in answers]
    return float(np.percentile(seconds, 99)) if seconds else float("nan")
