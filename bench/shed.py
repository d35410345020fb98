"""Sends four times the load that a stack sustains, and tells what became of it.

    python -m bench.shed --data ml-100k

A stack of its own serves the newest release of a data set. What a few callers get who ask one
request after the other is the load that it sustains; a fifth of that counts as no load. Then
requests leave at four times that rate, whether or not answers come back, and after that at a
fifth again, until everything is as before. The generator takes its part of the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import grpc
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from vireo.v1 import recommendation_pb2, recommendation_pb2_grpc

from bench.load import PAGE, Answer, SteadyLoad, p99
from bench.stack import served, stack_environment
from server.errors import VireoError
from server.home import Home
from server.releases.store import ReleaseStore
from server.stack.s3 import embedded_s3
from server.stack.settings import StackSettings
from server.stack.state import StackState, running_stack
from training.features.watches import load_watches

_CHANNEL = "production"
_PODS = ("candidate-", "ranking-", "gateway-")
_CALLERS = 8
"""That ask one after the other: enough to keep a stack busy, too few to be shed."""
_LIGHT = 0.2
_SLICE = 0.25
"""Seconds of answers that are judged together, to tell when all is as before."""
_SLICES = 8
"""So many of them must be as before, one after the other."""
_SHED = grpc.StatusCode.RESOURCE_EXHAUSTED.name


@dataclass(frozen=True)
class ShedPlan:
    """How much to send."""

    seconds: float = 30.0
    """Of overload."""
    quiet_seconds: float = 10.0
    """Of each other load."""
    times: float = 4.0
    """Overload over what is sustained."""
    deadline: float = 2.0
    """Seconds that each request may take."""
    viewers: int = 500


@dataclass(frozen=True)
class ShedResult:
    """What `python -m bench.shed` prints; rates are requests a second, times seconds."""

    sustained_rate: float
    offered_rate: float
    requests: int
    full: int
    degraded: int
    shed: int
    failed: int
    """Neither answered nor shed."""
    full_rate: float
    p50_light: float
    p99_light: float
    p50_accepted: float
    """Of those that were answered under overload, in full or not."""
    p99_accepted: float
    p99_ratio: float
    """Of accepted over light."""
    p99_shed: float
    p99_departure: float
    """By how much requests left late under overload; in all times above."""
    memory_growth: float
    """Resident memory of all pods at its most under overload over before."""
    seconds_to_normal: float
    """From the end of the overload until every answer was full and as fast as under light load."""


def measure_shedding(home: Home, dataset: str, plan: ShedPlan, console: Console) -> ShedResult:
    """Runs the whole measurement in a home of its own below `home`.

    Raises:
        VireoError: nothing was trained on the data set, or the stack does not start.
    """
    own = Home(home.root / "bench" / "shed")
    staged = home.staged_release(dataset)
    if not staged.exists():
        raise VireoError(f"{staged} is missing; make a release with: vireo train --data {dataset}")
    shutil.rmtree(own.root, ignore_errors=True)
    own.root.mkdir(parents=True)
    for name in ("data", "features"):
        (own.root / name).symlink_to(home.root / name, target_is_directory=True)
    environment = stack_environment(own)
    settings = StackSettings(
        home=own.root,
        port_base=int(environment["VIREO_PORT_BASE"]),
        edge_port=int(environment["VIREO_EDGE_PORT"]),
    )
    with embedded_s3(settings) as server:
        store = ReleaseStore(server)
        release_id = store.publish(staged).release_id
        store.set_channel(_CHANNEL, release_id, store.read_channel(_CHANNEL))
    watches = load_watches(home, dataset)
    viewers = watches["viewer_id"].drop_duplicates().head(plan.viewers).tolist()
    with served(own, environment):
        return asyncio.run(_measure(own, viewers, plan, console))


async def _measure(
    home: Home, viewers: Sequence[str], plan: ShedPlan, console: Console
) -> ShedResult:
    edge = _state(home).edge
    await _sustained(edge, viewers, plan.quiet_seconds / 2)  # what is slow only once
    sustained = await _sustained(edge, viewers, plan.quiet_seconds)
    console.print(f"{sustained:.0f} requests a second are sustained")
    async with SteadyLoad(edge, viewers, _LIGHT * sustained, plan.deadline) as light:
        await asyncio.sleep(plan.quiet_seconds)
    memory = [_memory(home)]
    async with SteadyLoad(edge, viewers, plan.times * sustained, plan.deadline) as load:
        for _ in range(math.ceil(plan.seconds)):
            await asyncio.sleep(plan.seconds / math.ceil(plan.seconds))
            memory.append(_memory(home))
    over = time.monotonic()
    async with SteadyLoad(edge, viewers, _LIGHT * sustained, plan.deadline) as after:
        await asyncio.sleep(plan.quiet_seconds)
    accepted = [answer for answer in load.answers if not answer.failure]
    shed = [answer for answer in load.answers if answer.failure.startswith(_SHED)]
    full = [answer for answer in accepted if not answer.degradations]
    return ShedResult(
        sustained_rate=sustained,
        offered_rate=len(load.answers) / plan.seconds,
        requests=len(load.answers),
        full=len(full),
        degraded=len(accepted) - len(full),
        shed=len(shed),
        failed=len(load.answers) - len(accepted) - len(shed),
        full_rate=len(full) / plan.seconds,
        p50_light=_median(light.answers),
        p99_light=p99(light.answers),
        p50_accepted=_median(accepted),
        p99_accepted=p99(accepted),
        p99_ratio=p99(accepted) / p99(light.answers),
        p99_shed=p99(shed),
        p99_departure=float(np.percentile(load.departures, 99)),
        memory_growth=max(memory) / memory[0],
        seconds_to_normal=seconds_to_normal(after.answers, over, p99(light.answers)),
    )


async def _sustained(edge: str, viewers: Sequence[str], seconds: float) -> float:
    """Full answers a second that a few callers get who ask one request after the other."""
    end, full = time.monotonic() + seconds, 0
    async with grpc.aio.insecure_channel(edge) as channel:
        stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)

        async def ask(number: int) -> None:
            nonlocal full
            while time.monotonic() < end:
                viewer = viewers[number % len(viewers)]
                request = recommendation_pb2.RecommendRequest(viewer_id=viewer, page_size=PAGE)
                try:
                    response = await stub.Recommend(request, timeout=10)
                    full += not response.degradations
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.1)  # not counted, and as a caller does who is shed
                number += _CALLERS

        await asyncio.gather(*map(ask, range(_CALLERS)))
    return full / seconds


def seconds_to_normal(answers: Sequence[Answer], since: float, usual: float) -> float:
    """Seconds from `since` until two seconds with nothing unusual began; infinite if none did.

    Args:
        answers: of a light load that began at `since`.
        since: `time.monotonic` seconds.
        usual: the 99th percentile of answers' times under such a load, seconds.
    """
    slices: dict[int, list[Answer]] = {}
    for answer in answers:
        slices.setdefault(int((answer.at - since) / _SLICE), []).append(answer)
    normal = 0
    for number in range(max(slices, default=-1) + 1):
        part = slices.get(number, [])
        lacking = any(answer.failure or answer.degradations for answer in part)
        normal = 0 if lacking or _median(part) > usual else normal + 1
        if normal == _SLICES:
            return (number + 1 - _SLICES) * _SLICE
    return math.inf


def _median(answers: Sequence[Answer]) -> float:
    return float(np.median([answer.seconds for answer in answers])) if answers else math.nan


def _memory(home: Home) -> int:
    """Resident bytes of all pods."""
    pods = [each for each in _state(home).processes if each.name.startswith(_PODS)]
    return sum(psutil.Process(each.pid).memory_info().rss for each in pods if each.pid)


def _state(home: Home) -> StackState:
    state = running_stack(home)
    if state is None:
        raise VireoError(f"the stack of {home.root} has ended; its logs say why")
    return state


def main() -> None:
    """Runs from the command line; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", default="ml-100k", help="data set whose newest release to serve")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to overload it")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    given = parser.parse_args()
    console = Console(stderr=True, highlight=False)
    result = asdict(
        measure_shedding(Home.current(), given.data, ShedPlan(seconds=given.seconds), console)
    )
    if given.json:
        print(json.dumps(result))  # noqa: T201
        return
    table = Table("measure", "figure")
    for name, value in result.items():
        shown = f"{value:.3f}" if isinstance(value, float) else f"{value:,}"
        table.add_row(name.replace("_", " "), shown)
    Console().print(table)


if __name__ == "__main__":
    main()
