"""Which calls a pod takes on; the others are shed before anything of them is read."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from google.protobuf.message import Message
from prometheus_client import Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from server.rpc.codel import Codel
from server.rpc.errors import ShedError, ShedReason
from server.rpc.turns import Turns
from server.rpc.worker import Worker

Metadata: TypeAlias = Iterable[tuple[str, Any]]

TIMEOUT_HEADER = "x-vireo-timeout"
"""Metadata key of a copy of the call's grpc-timeout, which Envoy makes: see `envoy/shared.yaml`."""

ARRIVAL_TARGET = 0.02
"""Seconds that calls may wait to be taken up all the time: several turns of the event loop, each of
which may have to wait for the processor."""

AHEAD = 12
"""Calls that must have been taken up while one waited: were they fewer, it isn't their number that
made it wait, but something else that has the processor, and to refuse some would help nobody."""

SHED = Counter("vireo_shed", "Calls that were shed, by method and reason.", ["method", "reason"])

_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MOST_DIGITS = 8


class Shedder:
    """The calls of one service that are under way, and whether another may join them.

    A server takes up new calls one after the other, and those that it hasn't got to wait where
    Python doesn't see them: while it is overloaded much of the delay is there. It shows only in
    how much of a call's time has passed before it is taken up.
    """

    def __init__(
        self,
        most: int,
        target: float = ARRIVAL_TARGET,
        *,
        worker: Worker | None = None,
        telling: Callable[[Message], bool] | None = None,
    ) -> None:
        """Takes what bounds the calls, besides how long they wait to be taken up.

        Args:
            most: the most calls under way, for the memory that they take.
            target: seconds that calls may wait to be taken up all the time; see Codel.
            worker: has its queue decide, for calls that can't do without it.
            telling: has the time decide that calls take, of those whose answers it is true for.
        """
        self.most = most
        self.worker = worker
        self._telling = telling
        self.turns = None if telling is None else Turns(most)
        """How many calls are worked on at a time; None where the worker decides."""
        self.arrivals = Codel(target)
        """How long calls have waited to be taken up."""
        self._taken_up: deque[float] = deque(maxlen=AHEAD)
        self.under_way = 0
        """Calls that are being answered, or wait for their turn."""

    async def take_on(self, metadata: Metadata, left: float | None) -> float:
        """Counts a call as under way, until `ended` is told of it.

        Args:
            metadata: the call's.
            left: seconds until its deadline; None without one.

        Returns:
            When its turn began, in `time.monotonic` seconds.

        Raises:
            ShedError: it is shed.
        """
        now = time.monotonic()
        waited = waited_seconds(metadata, left)
        reason = self.refusal(now, waited, math.inf if left is None else left)
        if reason is not None:
            raise ShedError(reason)
        self.under_way += 1
        if self.turns is None:
            return now
        try:
            return await self.turns.take()
        except BaseException:  # also a cancellation, while it waits
            self.under_way -= 1
            raise

    def ended(self, begun: float, response: Message | None) -> None:
        """Takes up that a call has ended, whose turn began then; None where it has no answer."""
        self.under_way -= 1
        if self.turns is not None and self._telling is not None:
            told = response is not None and self._telling(response)
            self.turns.give_back(begun, time.monotonic() - begun if told else None)

    def refusal(self, now: float, waited: float | None, left: float) -> ShedReason | None:
        """Why a call is shed, if it is.

        Args:
            now: `time.monotonic` seconds.
            waited: seconds for which it has been here; None where nobody knows.
            left: seconds until its deadline, infinite without one.
        """
        if waited is not None:
            self.arrivals.observe(now, waited)
            behind_many = len(self._taken_up) == AHEAD and now - self._taken_up[0] < waited
            self._taken_up.append(now)
            if behind_many and self.arrivals.standing and waited > self.arrivals.longest_wait:
                if self.turns is not None:
                    self.turns.limit.refused()
                return ShedReason.LATE
        if self.under_way >= self.most:
            return ShedReason.LIMIT
        return self.worker.refusal(left) if self.worker is not None else None


def waited_seconds(metadata: Metadata, left: float | None) -> float | None:
    """How long ago a call came in, by what was left of its time then and now.

    None where the metadata don't tell, or the call has no deadline.
    """
    if left is None:
        return None
    for key, value in metadata:
        if key == TIMEOUT_HEADER:
            timeout = _seconds(value)
            return None if timeout is None else max(0.0, timeout - left)
    return None


def _seconds(timeout: Any) -> float | None:
    """A grpc-timeout in seconds; None where it isn't one."""
    digits, unit = timeout[:-1], timeout[-1:]
    if unit not in _UNITS or not digits.isdecimal() or len(digits) > _MOST_DIGITS:
        return None
    return int(digits) * _UNITS[unit]


class LoadCollector(Collector):
    """What a process tells Prometheus of its load, as it is when asked."""

    def __init__(self, shedder: Shedder, worker: Worker) -> None:
        """Takes who sheds, and the worker, which may shed by itself."""
        self._shedder, self._worker = shedder, worker

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The families."""
        shedder, work = self._shedder, self._worker.limit
        yield _gauge(
            "vireo_calls_under_way",
            "Calls that are being answered, or wait for their turn.",
            shedder.under_way,
        )
        if shedder.turns is not None:
            yield _gauge(
                "vireo_calls_waiting", "Calls that wait for their turn.", shedder.turns.waiting
            )
            yield _gauge(
                "vireo_calls_limit",
                "Calls that may have their turn at a time, by how long they take.",
                shedder.turns.limit.calls,
            )
        yield _gauge(
            "vireo_work_queued", "Calls that wait for the worker, or run in it.", work.queued
        )
        yield _gauge(
            "vireo_work_queued_limit",
            "Most calls for the worker now, by how long they wait and take.",
            min(work.calls, shedder.most),
        )
        yield _gauge(
            "vireo_work_mean_seconds", "Time that the worker takes for a call.", work.mean_run
        )
        waits = GaugeMetricFamily(
            "vireo_queue_wait_seconds",
            "Wait of the latest call, to be taken up (arrivals) or for the worker (work).",
            labels=["queue"],
        )
        standing = GaugeMetricFamily(
            "vireo_queue_standing",
            "1 while a queue stays instead of coming and going, so that calls are shed.",
            labels=["queue"],
        )
        for name, queue in (("arrivals", shedder.arrivals), ("work", work.queue)):
            waits.add_metric([name], queue.latest)
            standing.add_metric([name], float(queue.standing))
        yield from (waits, standing)


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, meaning, value=value)
