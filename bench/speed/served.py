"""Something that answers questions with slates, and what an answer costs it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.process import cpu_seconds
from bench.speed.asked import Question, check_while
from bench.speed.h2load import LoadResult, Target


@dataclass(frozen=True)
class Served:
    """Processes that answer together."""

    target: Target
    address: str
    """host:port, to go on asking while it is measured."""
    pids: Mapping[str, int]
    """The processes whose time counts, by name."""
    questions: Sequence[Question]

    async def load(self, number: int, callers: int, requests: int) -> Cost:
        """Send requests as `Target.load` does, and check an answer now and then.

        Raises:
            VireoError: an answer is wrong.
        """
        done = asyncio.Event()
        checking = asyncio.create_task(check_while(self.address, self.questions, done))
        before = {name: cpu_seconds(pid) for name, pid in self.pids.items()}
        load = await self.target.load(number, callers, requests)
        used = {name: cpu_seconds(pid) - before[name] for name, pid in self.pids.items()}
        done.set()
        answers = load.requests + await checking
        return Cost(load, {name: seconds / answers for name, seconds in used.items()})


@dataclass(frozen=True)
class Cost:
    """What answers came to."""

    load: LoadResult
    processes: Mapping[str, float]
    """Processor seconds of an answer, by process."""

    @property
    def cpu(self) -> float:
        """Processor seconds of an answer, of all processes."""
        return sum(self.processes.values())
