"""Senders: record events in batches, in the background of a site's own work."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Generic, Self, TypeVar

import grpc

from vireo_client.aio import AsyncClient
from vireo_client.client import Client
from vireo_client.errors import InvalidRequest, Overloaded, VireoError
from vireo_client.inputs import Event

AnyClient = TypeVar("AnyClient")
OnLost = Callable[[Sequence[Event], Exception], None]
"""Called with events that will never be recorded, and why."""

_MAX_BATCH = 1000
"""Maximum events of a call."""
_FIRST_PAUSE, _MAX_PAUSE = 0.1, 5.0
"""Seconds before the first and before later repetitions of a batch."""
_CLOSE_SECONDS, _GRACE_SECONDS = 10.0, 1.0
_AWAY = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAUTHENTICATED,  # the next token may be valid
)
"""Codes after which a batch is repeated for as long as it takes."""
_BROKEN = (
    # What becomes of a call whose gateway is killed; or of a batch that no gateway can take.
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
)
_MAX_BROKEN = 10
"""Number of such calls in a row after which the batch counts as lost."""
_EVENT = re.compile(r"events\[(\d+)\]")

log = logging.getLogger(__name__)


class _Batches(ABC, Generic[AnyClient]):
    """The events that wait, and what becomes of a batch that failed."""

    recorded = 0
    """Events that the server has."""
    dropped = 0
    """Events that `send` did not take, since too many waited."""
    lost = 0
    """Events that the server refused for good."""

    def __init__(
        self,
        client: AnyClient,
        *,
        max_events: int = 500,
        max_seconds: float = 1.0,
        max_waiting: int = 10_000,
        on_lost: OnLost = lambda _events, _error: None,
    ) -> None:
        """Start to send in the background; an AsyncEventSender in the running loop.

        Args:
            client: what to send with; it stays open.
            max_events: maximum events of a batch, up to 1,000.
            max_seconds: maximum seconds that an event waits for others.
            max_waiting: maximum events that wait; `send` drops those beyond.
            on_lost: called in the background with events that the server refuses, and why.
        """
        if not 1 <= max_events <= _MAX_BATCH:
            raise ValueError(f"a batch has 1 to {_MAX_BATCH:,} events, not {max_events}")
        if max_seconds <= 0 or max_waiting < 1:
            raise ValueError("max_seconds must be above 0, and max_waiting at least 1")
        self._max_events, self._max_seconds = min(max_events, max_waiting), max_seconds
        self._max_waiting, self._on_lost = max_waiting, on_lost
        self._waiting = deque[Event]()
        self._closed = False
        self._batch: Sequence[Event] = ()
        """The events that are being sent."""
        self._pause, self._broken = _FIRST_PAUSE, 0
        self._client = client
        self._start()

    @abstractmethod
    def _start(self) -> None:
        """Set `_lock` and `_wake`, and start the thread or task that sends."""

    _lock: AbstractContextManager[Any]
    """Held while the events that wait change."""
    _wake: Callable[[], None]
    """Has the thread or task look again whether a batch is due."""

    def send(self, event: Event) -> bool:
        """Take an event to be sent; return whether there was room for it. It never waits.

        Raises:
            ValueError: the sender is closed, or no message can hold the event.
        """
        event.message()
        with self._lock:
            if self._closed:
                raise ValueError("the sender is closed")
            if len(self._waiting) + len(self._batch) >= self._max_waiting:
                self.dropped += 1
                return False
            self._waiting.append(event)
            if self._is_due():
                self._wake()
        return True

    def _is_due(self) -> bool:
        """Return whether there is no reason to wait for further events."""
        return self._closed or len(self._waiting) >= self._max_events

    def _begin(self) -> bool:
        """Make the next batch of what waits; return False if there will be no other."""
        count = min(self._max_events, len(self._waiting))
        self._batch = [self._waiting.popleft() for _ in range(count)]
        return bool(self._batch) or not self._closed

    def _done(self) -> None:
        self.recorded += len(self._batch)
        self._batch = ()
        self._pause, self._broken = _FIRST_PAUSE, 0

    def _failed(self, error: Exception) -> float:
        """Keep of the batch what is to be sent again; return the seconds until then."""
        code = error.code if isinstance(error, VireoError) else None
        after = error.retry_after if isinstance(error, VireoError) else None
        too_large = isinstance(error, Overloaded) and after is None
        self._broken += code in _BROKEN or code is None
        if code not in _AWAY + _BROKEN + (None,) or too_large or self._broken >= _MAX_BROKEN:
            self._lose(error)
            return 0.0
        pause = max(self._pause, after.total_seconds() if after else 0.0)
        self._pause = min(2 * self._pause, _MAX_PAUSE)
        return pause * random.uniform(1.0, 1.2)  # noqa: S311

    def _lose(self, error: Exception) -> None:
        """Take the invalid events out of the batch, or all of it if none is named."""
        fields = error.violations if isinstance(error, InvalidRequest) else ()
        found = filter(None, (_EVENT.match(each.field) for each in fields))
        places = {int(each[1]) for each in found} or {*range(len(self._batch))}
        refused = [each for place, each in enumerate(self._batch) if place in places]
        self._batch = [each for place, each in enumerate(self._batch) if place not in places]
        self._broken = 0
        self.lost += len(refused)
        try:
            self._on_lost(refused, error)
        except Exception:
            log.exception("on_lost failed")


class EventSender(_Batches[Client]):
    """Records events in batches in a thread of its own; an event counts once.

    A batch is repeated as it is until the server has it, for example while its gateway restarts.
    """

    def _start(self) -> None:
        self._changed, self._given_up = threading.Condition(), threading.Event()
        self._lock, self._wake = self._changed, self._changed.notify
        self._thread = threading.Thread(target=self._run, name="vireo-events", daemon=True)
        self._thread.start()

    def close(self, seconds: float = _CLOSE_SECONDS) -> int:
        """Send what waits, for so many seconds; return the number of events that are left."""
        with self._changed:
            self._closed = True
            self._wake()
        self._thread.join(seconds)
        self._given_up.set()
        self._thread.join(_GRACE_SECONDS)
        return len(self._waiting) + len(self._batch)

    def _run(self) -> None:
        while not self._given_up.is_set():
            with self._changed:
                self._changed.wait_for(self._is_due, self._max_seconds)
                if not self._begin():
                    return
            while self._batch:
                try:
                    self._client.record_events(self._batch)
                except Exception as error:  # noqa: BLE001 (such as of a function of tokens)
                    if self._given_up.wait(self._failed(error)):
                        return
                else:
                    self._done()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncEventSender(_Batches[AsyncClient]):
    """Records events in batches in a task of its own; see `EventSender`."""

    def _start(self) -> None:
        self._due = asyncio.Event()
        self._lock, self._wake = nullcontext(), self._due.set
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self, seconds: float = _CLOSE_SECONDS) -> int:
        """Send what waits, for so many seconds; return the number of events that are left."""
        self._closed = True
        self._wake()
        await asyncio.wait({self._task}, timeout=seconds)
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        return len(self._waiting) + len(self._batch)

    async def _run(self) -> None:
        while True:
            if not self._is_due():
                self._due.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._max_seconds):
                        await self._due.wait()
            if not self._begin():
                return
            while self._batch:
                try:
                    await self._client.record_events(self._batch)
                except Exception as error:  # noqa: BLE001 (such as of a function of tokens)
                    await asyncio.sleep(self._failed(error))
                else:
                    self._done()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
