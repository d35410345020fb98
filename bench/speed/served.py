"""Something that answers questions with slates, and what an answer costs it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.process import cpu_seconds
from bench.speed.asked import Ask, Question, asking, checked_target
from bench.speed.h2load import LoadResult, Target

_PAUSE = 0.1


@dataclass(frozen=True)
class Served:
    """Processes that answer together; they have answered every question right."""

    target: Target
    pids: Mapping[str, int]
    """The processes whose time counts, with those that they have started, by name."""
    questions: Sequence[Question]
    asking: Callable[[], AbstractAsyncContextManager[Ask]]
    """Opens a connection on which each answer is checked."""

    @staticmethod
    async def of(
        name: str,
        address: str,
        pids: Mapping[str, int],
        questions: Sequence[Question],
        folder: Path,
    ) -> Served:
        """Return a RecommendationService at host:port, once it has answered every question."""
        target = await checked_target(name, address, questions, folder)
        return Served(target, pids, questions, partial(asking, address))

    @property
    def name(self) -> str:
        """What it is called in rows."""
        return self.target.name

    async def load(self, number: int, callers: int, requests: int) -> Cost:
        """Send requests as `Target.load` does, and check an answer now and then.

        Raises:
            VireoError: an answer is wrong.
        """
        done = asyncio.Event()
        checking = asyncio.create_task(self._check_while(done))
        before = {name: cpu_seconds(pid) for name, pid in self.pids.items()}
        load = await self.target.load(number, callers, requests)
        used = {name: cpu_seconds(pid) - before[name] for name, pid in self.pids.items()}
        done.set()
        answers = load.requests + await checking
        return Cost(load, {name: seconds / answers for name, seconds in used.items()})

    async def _check_while(self, done: asyncio.Event) -> int:
        """Ask one question after the other until `done`; return the number of right answers."""
        count = 0
        async with self.asking() as ask:
            while not done.is_set():
                await ask(self.questions[count % len(self.questions)])
                count += 1
                await asyncio.sleep(_PAUSE)
        return count


@dataclass(frozen=True)
class Cost:
    """Cost of one response, and the load under which it was measured."""

    load: LoadResult
    processes: Mapping[str, float]
    """Processor seconds per response, by process."""

    @property
    def cpu(self) -> float:
        """Processor seconds per response, of all processes."""
        return sum(self.processes.values())
