"""How many calls may wait for a worker: what it works off within the time that CoDel allows."""

from __future__ import annotations

import math

from server.rpc.codel import TARGET, Codel
from server.rpc.errors import ShedReason

_WEIGHT = 0.05
"""Of the latest run in the mean time that work takes."""
_RUNS_IN_TARGET = 2.0
"""Work that takes long by itself may wait for so many runs all the time, whatever the target."""


class WorkLimit:
    """The queue before one worker, in numbers: no clock and no thread of its own.

    A call that joins waits for the length of the queue times the mean time that work takes
    (Little's law). So the limit follows latency: the faster the work, the more may wait.
    """

    def __init__(self, target: float = TARGET) -> None:
        """Takes the seconds that calls may wait all the time; see Codel."""
        self.target = target
        """As given; the queue's own grows with the time that work takes."""
        self.queue = Codel(target)
        """How long calls have waited."""
        self.queued = 0
        """Calls that are waiting or running."""
        self.mean_run = 0.0
        """Seconds that work takes, lately."""
        self.running_since: float | None = None
        """When the work that is running began."""

    @property
    def calls(self) -> float:
        """The limit: calls that may be waiting or running. Infinite until something has run."""
        return self.queue.longest_wait / self.mean_run if self.mean_run else math.inf

    def expected_wait(self, now: float) -> float:
        """Seconds that a further call would wait; 0 where nothing waits or runs."""
        if not self.queued:
            return 0.0
        # Work that hangs says more than the mean of what ran before it.
        elapsed = 0.0 if self.running_since is None else now - self.running_since
        return max(self.queued * self.mean_run, elapsed)

    def refusal(self, now: float, left: float) -> ShedReason | None:
        """Why a call may not join, if so; `left` is until its deadline, in seconds."""
        wait = self.expected_wait(now)
        if wait > left:
            return ShedReason.DEADLINE
        if wait > self.queue.longest_wait:
            return ShedReason.QUEUE
        return None

    def ran(self, seconds: float) -> None:
        """Takes up how long work took."""
        self.mean_run += (_WEIGHT if self.mean_run else 1.0) * (seconds - self.mean_run)
        self.queue.target = max(self.target, _RUNS_IN_TARGET * self.mean_run)
