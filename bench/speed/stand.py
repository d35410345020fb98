"""The stack that is measured: one pod of each kind, and a second gateway that needs no Envoy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.process import cpu_seconds
from bench.speed.h2load import LoadResult, Target
from bench.speed.questions import Ask, Question, asking, checked_target, questions_of
from bench.stack import Stack, linked_home
from vireo.server.home import Home

SETTINGS = {
    "VIREO_CANDIDATE_PODS": "1",
    "VIREO_RANKING_PODS": "1",
    "VIREO_GATEWAY_PODS": "1",
    # 32 callers on two cores would have some calls shed, and here each must be answered in full.
    "VIREO_SHEDDING": "false",
    # For the same reason no stage is skipped if the machine is busy otherwise.
    "VIREO_FEATURES_TIMEOUT": "5",
    "VIREO_RETRIEVAL_TIMEOUT": "5",
    "VIREO_RANKING_TIMEOUT": "5",
    # The same few viewers are asked for over and over, and the viewer tower must run each time.
    "VIREO_VIEWER_VECTOR_CACHE_SIZE": "0",
}
_PAUSE = 0.1


@dataclass(frozen=True)
class Stand:
    """A stack that runs."""

    stack: Stack
    home: Home
    """Home of the release that it serves."""
    dataset: str
    pids: Mapping[str, int]
    """Process ids of envoy, gateway, candidate, ranking, direct and others."""
    direct: str
    """host:port of the gateway that calls the pods itself."""

    @property
    def folder(self) -> Path:
        """Folder for the files of a measurement."""
        return self.stack.home.root

    @property
    def edge(self) -> str:
        """host:port of Envoy's edge."""
        return self.stack.settings.edge

    @property
    def release(self) -> Path:
        """Folder of the release that it serves."""
        return self.home.trained_release(self.dataset)

    async def edge_target(self, viewers: int) -> Target:
        """Return the edge, after it has answered the questions of the first viewers right."""
        questions = questions_of(self.home, self.dataset, viewers)
        return await checked_target("the edge", self.edge, questions, self.folder)


@contextmanager
def stand(home: Home, dataset: str, name: str) -> Iterator[Stand]:
    """Serve a data set's newest release until the block ends, in a home `name` below `home`."""
    release = home.trained_release(dataset)
    stack = Stack.of(linked_home(home, name), release, settings=SETTINGS)
    around_envoy = {
        "VIREO_CANDIDATE_TARGET": f"127.0.0.1:{stack.settings.candidate_pod_port}",
        "VIREO_RANKING_TARGET": f"127.0.0.1:{stack.settings.ranking_pod_port}",
    }
    with stack.running(), stack.further_pod("gateway", around_envoy) as direct:
        processes = stack.state().processes
        pids = {each.name.removesuffix("-1"): each.pid for each in processes if each.pid}
        yield Stand(stack, home, dataset, {**pids, "direct": direct.pid}, direct.address)


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
