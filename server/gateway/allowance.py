"""How many events a gateway records in a second: a token bucket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import grpc
from google.rpc import error_details_pb2

from server.rpc.errors import RpcError, unavailable


class Allowance:
    """A token bucket that holds what is allowed in one second.

    A batch is taken as a whole as soon as the bucket isn't empty, so that its size doesn't matter.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start full; `rate` is what is allowed in a second."""
        self._rate = rate
        self._clock = clock
        self._left = rate
        self._at = clock()

    def take(self, count: int) -> None:
        """Take `count`.

        Raises:
            RpcError: RESOURCE_EXHAUSTED with RetryInfo: the bucket is empty.
        """
        if pause := self._take(count):
            retry = error_details_pb2.RetryInfo(retry_delay=timedelta(seconds=pause))
            raise RpcError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"this gateway records at most {self._rate:,.0f} events a second; retry in "
                f"{pause:.3f} s",
                [retry],
            )

    async def wait(self, count: int, closing: asyncio.Event) -> None:
        """Take `count` once the bucket isn't empty.

        Raises:
            RpcError: UNAVAILABLE: `closing` was set first.
        """
        while pause := self._take(count):  # others take it too
            with suppress(TimeoutError):
                await asyncio.wait_for(closing.wait(), pause)
                raise unavailable("this server shuts down; go on with another stream", timedelta(0))

    def _take(self, count: int) -> float:
        """Take `count` and return 0, or return the seconds until the bucket isn't empty."""
        now = self._clock()
        self._left = min(self._rate, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left <= 0:
            return max(0.001, -self._left / self._rate)
        self._left -= count
        return 0.0
