"""How many events a gateway records in a second: a token bucket for each caller, and for all."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import grpc
from google.rpc import error_details_pb2

from server.rpc.errors import RpcError, unavailable

MAX_CALLERS = 10_000
"""Maximum callers that are told apart, some 200 bytes each; the least recent are forgotten."""


class Allowance:
    """Token buckets that hold what is allowed in one second.

    A batch is taken as a whole as soon as neither its caller's bucket nor that of all is empty, so
    that its size doesn't matter.
    """

    def __init__(
        self, rate: float, caller_rate: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start full.

        Args:
            rate: what is allowed in a second.
            caller_rate: what is allowed to one caller.
            clock: monotonic seconds.
        """
        self._caller_rate, self._clock = caller_rate, clock
        self._all = _Bucket(rate, clock())
        self._callers: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, caller: str, count: int) -> None:
        """Take `count`.

        Raises:
            RpcError: RESOURCE_EXHAUSTED with RetryInfo: a bucket is empty.
        """
        if pause := self._take(caller, count):
            retry = error_details_pb2.RetryInfo(retry_delay=timedelta(seconds=pause))
            raise RpcError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"this gateway records at most {self._caller_rate:,.0f} events a second of one "
                f"caller, and {self._all.rate:,.0f} in all; retry in {pause:.3f} s",
                [retry],
            )

    async def wait(self, caller: str, count: int, closing: asyncio.Event) -> None:
        """Take `count` once no bucket is empty.

        Raises:
            RpcError: UNAVAILABLE: `closing` was set first.
        """
        while pause := self._take(caller, count):  # others take it too
            with suppress(TimeoutError):
                await asyncio.wait_for(closing.wait(), pause)
                reason = "this server shuts down; continue on another stream"
                raise unavailable(reason, timedelta(0))

    def _take(self, caller: str, count: int) -> float:
        """Take `count` and return 0, or return the seconds until no bucket is empty."""
        now = self._clock()
        own = self._bucket_of(caller, now)
        pause = max(own.pause(now), self._all.pause(now))
        if not pause:
            own.left -= count
            self._all.left -= count
        return pause

    def _bucket_of(self, caller: str, now: float) -> _Bucket:
        bucket = self._callers.get(caller)
        if bucket is None:
            bucket = self._callers[caller] = _Bucket(self._caller_rate, now)
            if len(self._callers) > MAX_CALLERS:
                self._callers.popitem(last=False)
        else:
            self._callers.move_to_end(caller)
        return bucket


class _Bucket:
    """Holds what may be taken; less than nothing after a batch that was larger."""

    __slots__ = ("_at", "left", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = self.left = rate
        self._at = now

    def pause(self, now: float) -> float:
        """Fill it, and return the seconds until it isn't empty."""
        self.left = min(self.rate, self.left + (now - self._at) * self.rate)
        self._at = now
        return max(0.001, -self.left / self.rate) if self.left <= 0 else 0.0
