"""Swaps releases back and forth under load, and checks that no answer is lost or mixed.

    vireo bench swap --data ml-100k

A stack of its own serves the newest release of a data set and a twin of it that orders slates
otherwise. Before the load, every viewer's slate under each release is learned; under load, an
answer that isn't the slate of the release that it declares is mixed. It counts as undeclared
unless its degradations say so.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import psutil
from rich.console import Console
from vireo.v1 import release_pb2, release_pb2_grpc, viewer_pb2

from bench.load import PAGE, Answer, SteadyLoad, p99
from bench.stack import publish, served, stack_environment
from server.errors import VireoError
from server.home import Home
from server.releases.manifest import Manifest, Quotas
from server.releases.store import ReleaseStore
from server.stack.s3 import embedded_s3
from server.stack.settings import StackSettings
from server.stack.state import ProcessState, StackState, running_stack
from training.evaluation.served import ask_viewers
from training.features.watches import load_watches

CHANNEL = "production"
_PODS = ("candidate-", "ranking-", "gateway-")
_SWAP_SECONDS = 60.0
_POLL = 0.1
_LEARNERS = 8
_ATTEMPTS = 5
"""A busy machine may be late with an answer now and then."""
_SETTLING = 1.0
"""Seconds after a swap that still count as swapping."""

Slates = Mapping[tuple[str, str], tuple[str, ...]]
"""By (release, viewer): the video ids of the slate, best first."""


@dataclass(frozen=True)
class SwapPlan:
    """How much to do."""

    swaps: int = 20
    rate: float = 60.0
    """Requests a second."""
    deadline: float = 2.0
    """Seconds that each may take."""
    viewers: int = 200
    quiet_seconds: float = 20.0
    """Load without a swap, to compare with."""
    keep_previous_seconds: float = 5.0
    """How long pods keep the release before; the default is too long to wait for 20 times."""
    pause_seconds: float = 6.0
    """Between all pods serving one release and the next swap: longer than pods keep the release
    before, so that each swap loads one."""


@dataclass(frozen=True)
class SwapResult:
    """What `vireo bench swap` prints."""

    swaps: int
    requests: int
    failed: int
    """Requests without an answer."""
    degraded: int
    """Answers that declare a degradation, mixed ones included."""
    mixed_declared: int
    mixed_undeclared: int
    """Answers that aren't the slate of the release that they declare, and don't say so."""
    p99_before_seconds: float
    p99_during_seconds: float
    """Of the requests that left between a channel's change and a second after every pod served."""
    p99_ratio: float
    memory_growth: float
    """Resident memory of all pods after the last swap over after the second."""
    slowest_swap_seconds: float
    """From the channel's change until every pod served the release."""


@dataclass(frozen=True)
class Counts:
    """What became of some requests."""

    failed: int
    degraded: int
    mixed_declared: int
    mixed_undeclared: int


def count(answers: Sequence[Answer], slates: Slates) -> Counts:
    """Holds each answer against the slate of its viewer under the release that it declares.

    An answer with a degradation may be another slate: it says that it is less than full.
    """
    failed = degraded = declared = undeclared = 0
    for answer in answers:
        if answer.failure:
            failed += 1
        elif answer.degradations:
            degraded += 1
            declared += viewer_pb2.DEGRADATION_MIXED_RELEASES in answer.degradations
        elif slates.get((answer.release_id, answer.viewer_id)) != answer.items:
            undeclared += 1
    return Counts(failed, degraded, declared, undeclared)


def measure_swaps(home: Home, dataset: str, plan: SwapPlan, console: Console) -> SwapResult:
    """Runs the whole measurement in a home of its own below `home`.

    Raises:
        VireoError: nothing was trained on the data set, the stack does not start, or a swap
            does not end.
    """
    own = Home(home.root / "bench" / "swap")
    staged = home.trained_release(dataset)
    _prepare(home, own)
    environment = {
        **stack_environment(own),
        "VIREO_KEEP_PREVIOUS_SECONDS": str(plan.keep_previous_seconds),
    }
    settings = StackSettings(
        home=own.root,
        port_base=int(environment["VIREO_PORT_BASE"]),
        edge_port=int(environment["VIREO_EDGE_PORT"]),
    )
    twin = make_twin(staged, own.root / "twin")
    releases = publish(settings, staged, twin)
    watches = load_watches(home, dataset)
    viewers = watches["viewer_id"].drop_duplicates().head(plan.viewers).tolist()
    viewers += [f"stranger-{number}" for number in range(plan.viewers - len(viewers))]
    with served(own, environment), embedded_s3(settings) as server:
        return asyncio.run(
            _Swaps(own, ReleaseStore(server), releases, viewers, plan, console).run()
        )


def make_twin(release: Path, target: Path) -> Path:
    """A release of the same files as `release` that draws and orders candidates otherwise."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(release, target)
    manifest = Manifest.read(release)
    quotas, weights = manifest.quotas, manifest.score_weights
    manifest.model_copy(
        update={
            "release_id": f"{manifest.release_id}-twin",
            "quotas": Quotas({**quotas.root, "popular": quotas.root["popular"] + 0.2}),
            "score_weights": weights.model_copy(update={"diversity": weights.diversity + 3.0}),
        }
    ).write(target)
    return target


class _Swaps:
    """The measurement on a stack that runs."""

    def __init__(
        self,
        home: Home,
        store: ReleaseStore,
        releases: Sequence[str],
        viewers: Sequence[str],
        plan: SwapPlan,
        console: Console,
    ) -> None:
        self._home, self._store, self._releases = home, store, releases
        self._viewers, self._plan, self._console = viewers, plan, console
        self._moment = int(time.time())
        """When slates are said to be shown: the same whenever they are asked for."""

    async def run(self) -> SwapResult:
        plan, edge = self._plan, self._state().edge
        slates: dict[tuple[str, str], tuple[str, ...]] = {}
        for release_id in self._releases:
            await self._swap(release_id)
            slates |= await self._learned(edge, release_id)
        first, second = self._releases
        if all(slates[first, viewer] == slates[second, viewer] for viewer in self._viewers):
            raise VireoError("both releases give the same slates: no mixture could be told")
        memory, windows = [0], []
        load = SteadyLoad(edge, self._viewers, plan.rate, plan.deadline, self._moment)
        async with load:
            await asyncio.sleep(plan.quiet_seconds)
            before = list(load.answers)
            for number in range(1, plan.swaps + 1):
                started = time.monotonic()
                took = await self._swap(self._releases[(number + 1) % 2])
                windows.append((started, started + took + _SETTLING))
                self._console.print(f"swap {number} of {plan.swaps}: {took:.2f} s on every pod")
                await asyncio.sleep(plan.pause_seconds)
                memory.append(self._memory())
        during = [
            answer
            for answer in load.answers
            if any(start <= answer.at <= end for start, end in windows)
        ]
        quiet, busy = p99(before), p99(during)
        return SwapResult(
            swaps=plan.swaps,
            requests=len(load.answers),
            **asdict(count(load.answers, slates)),
            p99_before_seconds=quiet,
            p99_during_seconds=busy,
            p99_ratio=busy / quiet,
            memory_growth=memory[-1] / memory[min(2, plan.swaps)],
            slowest_swap_seconds=max(end - start for start, end in windows) - _SETTLING,
        )

    async def _learned(self, edge: str, release_id: str) -> Slates:
        """Every viewer's slate under the release that is served."""
        learned: dict[tuple[str, str], tuple[str, ...]] = {}
        wanted = list(self._viewers)
        for _ in range(_ATTEMPTS):
            unfit = []
            moments = [self._moment] * len(wanted)
            for answer in await ask_viewers(
                edge, wanted, moments, concurrency=_LEARNERS, deadline=5.0
            ):
                if answer.failure or answer.degradations or answer.release_id != release_id:
                    unfit.append(answer)
                else:
                    learned[release_id, answer.viewer_id] = answer.items[:PAGE]
            if not unfit:
                return learned
            wanted = [answer.viewer_id for answer in unfit]
        raise VireoError(f"the quiet stack did not answer in full: {unfit[0]}")

    async def _swap(self, release_id: str) -> float:
        """Promotes a release; seconds until every pod serves it."""
        started = time.monotonic()
        await asyncio.to_thread(
            lambda: self._store.set_channel(CHANNEL, release_id, self._store.read_channel(CHANNEL))
        )
        for port in self._pods(lambda process: process.port):
            await self._until_served(port, release_id, started)
        return time.monotonic() - started

    async def _until_served(self, port: int, release_id: str, started: float) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = release_pb2_grpc.ReleaseServiceStub(channel)
            while True:
                state = await stub.GetServingRelease(
                    release_pb2.GetServingReleaseRequest(), timeout=5
                )
                if state.release_id == release_id:
                    return
                if time.monotonic() - started > _SWAP_SECONDS:
                    raise VireoError(
                        f"{state.pod} did not take up {release_id} within {_SWAP_SECONDS:.0f} s: "
                        f"{state.last_failure or 'it is still loading'}"
                    )
                await asyncio.sleep(_POLL)

    def _memory(self) -> int:
        """Resident bytes of all pods."""
        pids = self._pods(lambda process: process.pid or 0)
        return sum(psutil.Process(pid).memory_info().rss for pid in pids)

    def _pods(self, of: Callable[[ProcessState], int]) -> list[int]:
        return [of(each) for each in self._state().processes if each.name.startswith(_PODS)]

    def _state(self) -> StackState:
        state = running_stack(self._home)
        if state is None:
            raise VireoError(f"the stack of {self._home.root} has ended; its logs say why")
        return state


def _prepare(home: Home, own: Home) -> None:
    """An empty home with the data and features of another."""
    shutil.rmtree(own.root, ignore_errors=True)
    own.root.mkdir(parents=True)
    for name in ("data", "features"):
        (own.root / name).symlink_to(home.root / name, target_is_directory=True)
