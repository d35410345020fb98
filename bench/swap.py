"""Swap releases back and forth under load, and check that no answer is lost or mixed.

A stack of its own serves the newest release of a data set and a twin of it that orders slates
otherwise. Before the load, every viewer's slate under each release is learned; under load, an
answer that isn't the slate of the release that it declares is mixed. It counts as undeclared
unless its degradations say so.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
from rich.console import Console

from bench.load import PAGE, Answer, SteadyLoad, p99
from bench.stack import CHANNEL, OwnStack, own_home, own_stack
from vireo.ops.stack.s3 import embedded_s3
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.releases.channels import Change
from vireo.server.releases.manifest import Manifest
from vireo.server.releases.store import ReleaseStore
from vireo.server.releases.weights import Quotas
from vireo.training.evaluation.served import Stack, ask_in_full
from vireo.training.features.watches import load_watches
from vireo.v1 import viewer_pb2
from vireo.v1.release_pb2 import GetServingReleaseRequest
from vireo.v1.release_pb2_grpc import ReleaseServiceStub

if TYPE_CHECKING:
    from vireo.v1.release_pb2_grpc import ReleaseServiceAsyncStub

_SWAP_SECONDS = 60.0
_POLL = 0.1
_LEARNERS = 8
_SETTLING = 1.0
"""Seconds after a swap that still count as swapping."""

Slates = Mapping[tuple[str, str], tuple[str, ...]]
"""Video ids of a slate, best first, by release and viewer."""


@dataclass(frozen=True)
class SwapPlan:
    """How much to do."""

    swaps: int = 20
    rate: float = 60.0
    """Requests a second."""
    deadline: float = 2.0
    """Seconds, of each request."""
    viewers: int = 200
    quiet_seconds: float = 20.0
    """Load without a swap, to compare with."""
    keep_previous_seconds: float = 5.0
    """How long pods keep the previous release; the default is too long to wait for 20 times."""
    pause_seconds: float = 6.0
    """Between all pods serving one release and the next swap: longer than pods keep the previous
    release, so that each swap loads one."""


@dataclass(frozen=True)
class Counts:
    """How some requests ended."""

    failed: int
    """Requests without an answer."""
    degraded: int
    """Answers that declare a degradation, including mixed ones."""
    mixed_declared: int
    mixed_undeclared: int
    """Answers that aren't the slate of the release that they declare, and don't say so."""


@dataclass(frozen=True)
class SwapResult(Counts):
    """What `vireo bench swap` prints."""

    swaps: int
    requests: int
    p99_before_seconds: float
    p99_during_seconds: float
    """p99 of requests that left between a channel's change and a second after every pod served."""
    p99_ratio: float
    memory_growth: float
    """Resident memory of all pods after the last swap over that after the second."""
    slowest_swap_seconds: float
    """From the channel's change until every pod served the release."""


def count(answers: Sequence[Answer], slates: Slates) -> Counts:
    """Compare each answer with the slate of its viewer under the release that it declares.

    An answer with a degradation may be another slate.
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
    """Run the whole measurement in a home of its own below `home`.

    Raises:
        VireoError: nothing was trained on the data set, the stack does not start, or a swap
            does not end.
    """
    staged, own = home.trained_release(dataset), own_home(home, "swap")
    twin = make_twin(staged, own.root / "twin")
    keep = {"VIREO_KEEP_PREVIOUS_SECONDS": str(plan.keep_previous_seconds)}
    stack = own_stack(own, staged, twin, settings=keep)
    viewers = load_watches(home, dataset)["viewer_id"].drop_duplicates().head(plan.viewers).tolist()
    viewers += [f"stranger-{number}" for number in range(plan.viewers - len(viewers))]
    with stack.running(), embedded_s3(stack.settings) as server:
        return asyncio.run(_run(stack, ReleaseStore(server), viewers, plan, console))


def make_twin(release: Path, target: Path) -> Path:
    """Write a release of the same files that draws and orders candidates otherwise."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(release, target)
    manifest = Manifest.read(release)
    quotas, weights = manifest.quotas, manifest.score_weights
    manifest.model_copy(
        update={
            "release_id": f"{manifest.release_id}-twin",
            "quotas": Quotas({**quotas.root, "popular": quotas.root["popular"] + 0.2}),
            "score_weights": weights.with_diversity(weights.diversity + 3.0),
        }
    ).write(target)
    return target


async def _run(
    stack: OwnStack, store: ReleaseStore, viewers: Sequence[str], plan: SwapPlan, console: Console
) -> SwapResult:
    moment = int(time.time())  # the same for all slates, so that a viewer's are the same
    slates: dict[tuple[str, str], tuple[str, ...]] = {}
    for release_id in stack.releases:
        await _swap(stack, store, release_id)
        slates |= await _learned(stack, viewers, moment, release_id)
    first, second = stack.releases
    if all(slates[first, viewer] == slates[second, viewer] for viewer in viewers):
        raise VireoError("both releases give the same slates: a mixture could not be detected")
    memory, windows = [0], []
    edge = stack.settings.edge
    async with SteadyLoad(edge, viewers, plan.rate, plan.deadline, moment) as load:
        await asyncio.sleep(plan.quiet_seconds)
        quiet = p99(load.answers)
        for number in range(1, plan.swaps + 1):
            started = time.monotonic()
            took = await _swap(stack, store, stack.releases[(number + 1) % 2])
            windows.append((started, started + took + _SETTLING))
            console.print(f"swap {number} of {plan.swaps}: {took:.2f} s on every pod")
            await asyncio.sleep(plan.pause_seconds)
            memory.append(stack.memory())
    during = (
        answer
        for answer in load.answers
        if any(start <= answer.at <= end for start, end in windows)
    )
    busy = p99(list(during))
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


async def _learned(stack: OwnStack, viewers: Sequence[str], moment: int, release_id: str) -> Slates:
    """Return every viewer's slate under the release that is served."""
    edge, moments = stack.settings.edge, [moment] * len(viewers)
    answers = await ask_in_full(Stack(edge, 5.0, _LEARNERS), viewers, moments)
    for answer in answers:
        if answer.failure or answer.degradations or answer.release_id != release_id:
            raise VireoError(f"the quiet stack did not answer in full: {answer}")
    return {(release_id, answer.viewer_id): answer.items[:PAGE] for answer in answers}


async def _swap(stack: OwnStack, store: ReleaseStore, release_id: str) -> float:
    """Promote a release, and return the seconds until every pod serves it.

    Pods are asked from the load's own event loop, a connection each: in a thread, with a connection
    for each question, that delayed the answers which are measured.
    """
    started = time.monotonic()
    before = await asyncio.to_thread(store.read_channel, CHANNEL)
    await asyncio.to_thread(store.change_channel, CHANNEL, Change(release_id), before)
    for pod in stack.pods():
        async with grpc.aio.insecure_channel(f"127.0.0.1:{pod.port}") as channel:
            stub = ReleaseServiceStub(channel)
            while await _served(stub) != release_id:
                if time.monotonic() > started + _SWAP_SECONDS:
                    late = f"{pod.name} did not load {release_id} within {_SWAP_SECONDS:.0f} s"
                    raise VireoError(late)
                await asyncio.sleep(_POLL)
    return time.monotonic() - started


async def _served(stub: ReleaseServiceAsyncStub) -> str:
    """Return the release that a pod serves; raise VireoError if it doesn't answer."""
    try:
        return (await stub.GetServingRelease(GetServingReleaseRequest(), timeout=5)).release_id
    except grpc.aio.AioRpcError as error:
        raise VireoError(f"a pod doesn't say what it serves: {error.details()}") from error
