"""Senders: record events in batches, in the background of a site's own work."""

from __future__ import annotations

import asyncio
import queue
import random
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import grpc

from vireo_client.aio import AsyncClient
from vireo_client.client import Client
from vireo_client.errors import InvalidRequest, Overloaded, Unavailable, VireoError
from vireo_client.inputs import Event

Lost = Callable[[Sequence[Event], VireoError], None]
"""Called with events that the server will never take, and why."""

_FIRST_PAUSE, _MAX_PAUSE = 0.1, 5.0
"""Seconds before the first and before later repetitions of a batch."""
_CLOSE_SECONDS = 10.0
_EVENT = re.compile(r"events\[(\d+)\]")
_REPEATED = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        # What becomes of a call whose gateway is killed.
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
    }
)


def _ignore(_: Sequence[Event], __: VireoError) -> None:
    """Do nothing: `lost` counts them."""


class _Counts:
    """What became of the events of a sender."""

    recorded = 0
    """Events that the server has."""
    dropped = 0
    """Events that `send` did not take, since too many waited."""
    lost = 0
    """Events that the server refused for good."""

    def __init__(self, max_events: int, max_seconds: float, on_lost: Lost) -> None:
        if not 1 <= max_events <= 1000:
            raise ValueError(f"a batch has 1 to 1,000 events, not {max_events}")
        self._max_events, self._max_seconds, self._on_lost = max_events, max_seconds, on_lost
        self._pause = _FIRST_PAUSE

    def _done(self, batch: Sequence[Event]) -> None:
        self.recorded += len(batch)
        self._pause = _FIRST_PAUSE

    def _pause_after(self, error: VireoError) -> float:
        """Return the seconds until what failed so may be sent again; 0 if it never is as it was."""
        if error.code not in _REPEATED:
            return 0.0
        after = error.retry_after if isinstance(error, Overloaded | Unavailable) else None
        pause = max(self._pause, after.total_seconds() if after else 0.0)
        self._pause = min(2 * self._pause, _MAX_PAUSE)
        return pause * random.uniform(1.0, 1.2)  # noqa: S311

    def _left_of(self, batch: Sequence[Event], error: VireoError) -> Sequence[Event]:
        """Return what of a batch that failed is still to be sent, without the invalid events."""
        if error.code in _REPEATED:
            return batch
        fields = (
            [each.field for each in error.violations] if isinstance(error, InvalidRequest) else []
        )
        invalid = {int(found[1]) for found in map(_EVENT.match, fields) if found}
        refused = [each for place, each in enumerate(batch) if not invalid or place in invalid]
        self.lost += len(refused)
        self._on_lost(refused, error)
        return [each for place, each in enumerate(batch) if invalid and place not in invalid]


class EventSender(_Counts):
    """Records events in batches in a thread of its own; an event counts once.

    A batch is repeated as it is until the server has it, for example while its gateway restarts.
    """

    def __init__(
        self,
        client: Client,
        *,
        max_events: int = 500,
        max_seconds: float = 1.0,
        max_waiting: int = 10_000,
        on_lost: Lost = _ignore,
    ) -> None:
        """Start the thread.

        Args:
            client: what to send with; it stays open.
            max_events: maximum events of a batch, up to 1,000.
            max_seconds: maximum seconds that an event waits for others.
            max_waiting: maximum events that wait; `send` drops those beyond.
            on_lost: called in the thread with events that the server refuses, and why.
        """
        super().__init__(max_events, max_seconds, on_lost)
        self._client = client
        self._waiting = queue.Queue[Event](max_waiting)
        self._closed, self._given_up = threading.Event(), threading.Event()
        self._ready = threading.Event()
        """Set if there is no reason to wait for further events."""
        self._left = 0
        """Events of the batch that was given up."""
        self._thread = threading.Thread(target=self._run, name="vireo-events", daemon=True)
        self._thread.start()

    def send(self, event: Event) -> bool:
        """Take an event to be sent; return whether there was room for it. It never waits.

        Raises:
            ValueError: the sender is closed.
        """
        if self._closed.is_set():
            raise ValueError("the sender is closed")
        try:
            self._waiting.put_nowait(event)
        except queue.Full:
            self.dropped += 1
            return False
        if self._waiting.qsize() >= self._max_events:
            self._ready.set()
        return True

    def close(self, seconds: float = _CLOSE_SECONDS) -> int:
        """Send what waits, for so many seconds; return the number of events that are left."""
        self._closed.set()
        self._ready.set()
        self._thread.join(seconds)
        self._given_up.set()
        self._thread.join()
        return self._waiting.qsize() + self._left

    def _run(self) -> None:
        while not (self._closed.is_set() and self._waiting.empty()):
            self._ready.wait(self._max_seconds)
            self._ready.clear()
            count = min(self._max_events, self._waiting.qsize())
            if batch := [self._waiting.get_nowait() for _ in range(count)]:
                self._send(batch)
            if self._given_up.is_set():
                return
            if self._closed.is_set() or self._waiting.qsize() >= self._max_events:
                self._ready.set()

    def _send(self, batch: Sequence[Event]) -> None:
        while batch:
            try:
                self._client.record_events(batch)
            except VireoError as error:
                batch = self._left_of(batch, error)
                if self._given_up.wait(self._pause_after(error)):
                    self._left = len(batch)
                    return
            else:
                self._done(batch)
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncEventSender(_Counts):
    """Records events in batches in a task of its own; see `EventSender`."""

    def __init__(
        self,
        client: AsyncClient,
        *,
        max_events: int = 500,
        max_seconds: float = 1.0,
        max_waiting: int = 10_000,
        on_lost: Lost = _ignore,
    ) -> None:
        """Start the task in the running loop; the arguments are those of `EventSender`."""
        super().__init__(max_events, max_seconds, on_lost)
        self._client = client
        self._waiting = asyncio.Queue[Event](max_waiting)
        self._closed, self._ready = False, asyncio.Event()
        self._batch: Sequence[Event] = ()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def send(self, event: Event) -> bool:
        """Take an event to be sent; return whether there was room for it. It never waits.

        Raises:
            ValueError: the sender is closed.
        """
        if self._closed:
            raise ValueError("the sender is closed")
        try:
            self._waiting.put_nowait(event)
        except asyncio.QueueFull:
            self.dropped += 1
            return False
        if self._waiting.qsize() >= self._max_events:
            self._ready.set()
        return True

    async def close(self, seconds: float = _CLOSE_SECONDS) -> int:
        """Send what waits, for so many seconds; return the number of events that are left."""
        self._closed = True
        self._ready.set()
        await asyncio.wait({self._task}, timeout=seconds)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        return self._waiting.qsize() + len(self._batch)

    async def _run(self) -> None:
        while not (self._closed and self._waiting.empty()):
            with suppress(TimeoutError):
                async with asyncio.timeout(self._max_seconds):
                    await self._ready.wait()
            self._ready.clear()
            count = min(self._max_events, self._waiting.qsize())
            self._batch = [self._waiting.get_nowait() for _ in range(count)]
            await self._send()
            if self._closed or self._waiting.qsize() >= self._max_events:
                self._ready.set()

    async def _send(self) -> None:
        while self._batch:
            try:
                await self._client.record_events(self._batch)
            except VireoError as error:
                self._batch = self._left_of(self._batch, error)
                await asyncio.sleep(self._pause_after(error))
            else:
                self._done(self._batch)
                self._batch = ()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
