"""A site that records events without pause, and repeats what wasn't acknowledged."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import grpc
import grpc.aio
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from bench.replay import KINDS, PAST_SECONDS
from vireo.server.errors import VireoError
from vireo.v1 import event_pb2, event_pb2_grpc

_WRITERS = 8
"""Batches on their way at a time."""
_DEADLINE = 10.0
_PAUSE = 0.3
"""Seconds before a call is repeated."""
_RETRY_INFO = f"/{RetryInfo.DESCRIPTOR.full_name}"
_AGAIN = 0.1
"""Share of the batches that are sent once more, in another order: other messages of the log."""
_REPEATED = 5
"""Batches that `repeat_last` sends again."""


@dataclass(frozen=True)
class Refusal:
    """A call that failed."""

    at: float
    """When it left, `time.monotonic` seconds."""
    seconds: float
    """Until it failed."""
    status: str
    """For example "UNAVAILABLE"."""
    says_when: bool
    """Whether it says when to try again."""


class Recorder:
    """An open stream of batches, each repeated as it was until it is acknowledged.

    Use it as a context: at its end all are acknowledged, or it raises.
    """

    def __init__(
        self,
        target: str,
        videos: Sequence[str],
        rate: float,
        patience: float,
        *,
        viewers: int = 200,
        size: int = 20,
    ) -> None:
        """Prepare it.

        Args:
            target: host:port of the edge.
            videos: ids of videos that the events are of.
            rate: events a second.
            patience: maximum seconds for which a batch is repeated.
            viewers: number of viewers, of whom nothing else is known.
            size: events in a batch.
        """
        self.acknowledged: dict[str, event_pb2.Event] = {}
        """By id."""
        self.refusals: list[Refusal] = []
        self.last_left = -math.inf
        """When the last call left that was acknowledged, `time.monotonic` seconds."""
        self.prefix = f"chaos-{time.time_ns()}"
        self.viewers = [f"{self.prefix}-{number}" for number in range(viewers)]
        self._target, self._videos, self._patience = target, videos, patience
        self._pause, self._size = _WRITERS * size / rate, size
        self._random = random.Random(0)  # noqa: S311
        self._numbers = count()
        self._last: deque[Sequence[event_pb2.Event]] = deque(maxlen=_REPEATED)
        self._stopping = asyncio.Event()

    async def __aenter__(self) -> Recorder:
        """Begin; `running` ends early if events were refused for too long."""
        self.running = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End, once all that has been sent is acknowledged; raise VireoError if it isn't."""
        self._stopping.set()
        await self.running

    async def _run(self) -> None:
        try:
            async with self._stub() as stub, asyncio.TaskGroup() as writers:
                for number in range(_WRITERS):
                    writers.create_task(self._write(stub, number / _WRITERS * self._pause))
        except ExceptionGroup as failed:
            refused, other = failed.split(VireoError)
            if other is not None or refused is None:
                raise
            raise refused.exceptions[0] from failed

    async def repeat_last(self) -> None:
        """Send the last batches that were acknowledged once more, as they were."""
        async with self._stub() as stub:
            for batch in [*self._last]:
                await self._record(stub, batch)

    @asynccontextmanager
    async def _stub(self) -> AsyncIterator[Any]:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self._target, options) as channel:
            # The stub of asyncio is of another type than the stubs' file declares.
            yield event_pb2_grpc.EventServiceStub(channel)

    async def _write(self, stub: Any, wait: float) -> None:
        while not await self._stopped(wait):
            begun = time.monotonic()
            batch = [self._event() for _ in range(self._size)]
            await self._record(stub, batch)
            if self._random.random() < _AGAIN:
                await self._record(stub, self._random.sample(batch, len(batch)))
            wait = max(0.0, begun + self._pause - time.monotonic())

    async def _stopped(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._stopping.wait()
        except TimeoutError:
            return False

    def _event(self) -> event_pb2.Event:
        choose, now = self._random, time.time()
        kind = choose.choice(KINDS)
        event = event_pb2.Event(
            event_id=f"{self.prefix}-{next(self._numbers)}",
            viewer_id=choose.choice(self.viewers),
            kind=kind,
            video_id=choose.choice(self._videos),
        )
        event.time.FromMicroseconds(int((now - choose.random() * PAST_SECONDS) * 1e6))
        if kind == event_pb2.EVENT_KIND_PLAY:
            event.watched_fraction = choose.random()
        return event

    async def _record(self, stub: Any, batch: Sequence[event_pb2.Event]) -> None:
        """Return once events are acknowledged; raise VireoError if they aren't in time."""
        request = event_pb2.RecordEventsRequest(events=batch)
        first = time.monotonic()
        while True:
            at = time.monotonic()
            try:
                await stub.RecordEvents(request, timeout=_DEADLINE)
            except grpc.aio.AioRpcError as error:
                took = time.monotonic() - at
                says_when = _says_when(error)
                self.refusals.append(Refusal(at, took, error.code().name, says_when))
                if time.monotonic() - first > self._patience:
                    raise VireoError(f"events were refused: {error.details()}") from error
            else:
                self.acknowledged |= {event.event_id: event for event in batch}
                self.last_left = max(self.last_left, at)
                self._last.append(batch)
                return
            await asyncio.sleep(_PAUSE)


def _says_when(error: grpc.aio.AioRpcError) -> bool:
    """Return whether an error has google.rpc.RetryInfo."""
    metadata = dict(error.trailing_metadata() or ())
    details = metadata.get("grpc-status-details-bin", b"")
    status = Status.FromString(details if isinstance(details, bytes) else details.encode())
    return any(each.type_url.endswith(_RETRY_INFO) for each in status.details)
