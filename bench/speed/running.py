"""A stack as it runs: its tail under load, idle, the start and memory of its pods.

And what a large catalogue adds. Pods start from a warm cache, as restarted pods do.
"""

from __future__ import annotations

import asyncio
import time

import numpy as np
import psutil
from rich.console import Console

from bench.process import cpu_seconds, memory_of
from bench.rows import Figures, Row
from bench.speed.plan import SpeedPlan
from bench.speed.questions import asking, questions_of
from bench.speed.stand import Stand, stand
from bench.stack import Stack, linked_home
from vireo.ops.stack.settings import PodKind
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.releases import layout
from vireo.server.releases.tables import read_table

_MAX_TAIL = 4.0
_CALLERS = 8
_SHARE = 0.6
"""Share of the rate that these callers sustain in a closed loop."""
_MAX_LARGE_OVER_SMALL = 1.5
_MAX_START_SECONDS = 3.0
_MAX_MEGABYTES: dict[PodKind, float] = {"candidate": 500.0, "ranking": 600.0}
_SETTLE_SECONDS = 10.0
"""After the start and the first slate, whose last tasks would count."""
_ASK_SECONDS = 30.0
_MAX_IDLE_SHARE = 0.02


def tail_rows(running: Stand, plan: SpeedPlan, console: Console) -> list[Row]:
    """Measure p99 over p50 behind Envoy at a sustained load."""
    return asyncio.run(_tail(running, plan, console))


async def _tail(running: Stand, plan: SpeedPlan, console: Console) -> list[Row]:
    edge, figures = await running.edge_target(plan.viewers), Figures(console)
    load = f"{_CALLERS} callers at {_SHARE:.0%} of the sustained rate"
    for number in figures.rounds(plan.rounds):
        requests = plan.of_round(number).requests
        sustained = (await edge.load(number, _CALLERS, requests // 4)).rate
        found = await edge.load(number, _CALLERS, requests, _SHARE * sustained, max_wrong=1.0)
        p50, p99 = np.percentile(found.latencies, [50, 99]).tolist()
        figures.add(f"p99 over p50, {load}", p99 / p50, _MAX_TAIL)
        # Other load on the cores can make answers late beyond all limits.
        figures.add(f"share of wrong answers, {load}", found.wrong / found.requests, 0.0)
        figures.add(f"p50, {load}, ms", 1000 * p50)
        figures.add(f"p99, {load}, ms", 1000 * p99)
        figures.add(f"sustained rate of {_CALLERS} callers, answers a second", sustained)
    return figures.rows()


def pods_rows(running: Stand, plan: SpeedPlan, console: Console) -> list[Row]:
    """Measure the pods of a stand that nobody has asked yet, and the start of others like them."""
    rows = []
    asyncio.run(running.edge_target(plan.sample))
    for kind, bound in _MAX_MEGABYTES.items():
        megabytes = memory_of(running.pids[kind], running.stack.home.cache)
        figures = Figures(console)
        for _ in figures.rounds(plan.rounds):
            with running.stack.further_pod(kind) as pod:
                figures.add(f"start of a {kind} pod to SERVING, s", pod.started, _MAX_START_SECONDS)
        rows += figures.rows()
        rows.append(Row(f"memory of a {kind} pod, MB", megabytes, bound=bound))
    return rows


def measure_catalogue(home: Home, dataset: str, plan: SpeedPlan, console: Console) -> list[Row]:
    """Serve the newest releases of a data set and of `plan.small` side by side, asked in turns."""
    with stand(home, dataset, "large") as large, stand(home, plan.small, "small") as small:
        return asyncio.run(_catalogue(large, small, plan, console))


async def _catalogue(large: Stand, small: Stand, plan: SpeedPlan, console: Console) -> list[Row]:
    figures = Figures(console)
    over_large, over_small = [await each.edge_target(plan.viewers) for each in (large, small)]
    many, few = (
        len(read_table(each.release, layout.VIDEO_KEYS, np.int64, (None,)))
        for each in (large, small)
    )
    compared = f"p50 of 1 caller, {many:,} videos"
    for number in figures.rounds(plan.rounds):
        alone = plan.of_round(number).alone
        p50 = await over_large.p50(number, alone)
        ratio = p50 / await over_small.p50(number, alone)
        figures.add(f"{compared} over {few:,}", ratio, _MAX_LARGE_OVER_SMALL)
        figures.add(f"{compared}, ms", 1000 * p50)
    return figures.rows()


def measure_idle(home: Home, dataset: str, plan: SpeedPlan, console: Console) -> list[Row]:
    """Measure the processor time of all processes of an idle stack with the default settings.

    The supervisor and S3 are included. It has answered once, as stacks in real life have: before a
    cluster's first call Envoy has less to do.
    """
    stack = Stack.of(linked_home(home, "idle"), home.trained_release(dataset))
    with stack.running():
        asyncio.run(_ask_once(home, dataset, stack))
        console.print(f"leaving a stack alone for {plan.idle:.0f} s")
        time.sleep(min(_SETTLE_SECONDS, plan.idle))
        before, begun = _seconds(stack), time.monotonic()
        time.sleep(plan.idle)
        after, took = _seconds(stack), time.monotonic() - begun
    shares = {name: (after[name] - seconds) / took for name, seconds in before.items()}
    return [
        Row("idle stack, share of a core", sum(shares.values()), bound=_MAX_IDLE_SHARE),
        *(Row(f"idle stack: {name}, share of a core", share) for name, share in shares.items()),
    ]


async def _ask_once(home: Home, dataset: str, stack: Stack) -> None:
    """Ask until one slate is full: on a busy machine a stage of the first may be late."""
    (question,) = questions_of(home, dataset, viewers=1)
    until = time.monotonic() + _ASK_SECONDS
    async with asking(stack.settings.edge) as ask:
        while True:
            try:
                await ask(question)
            except VireoError:
                if time.monotonic() > until:
                    raise
            else:
                return


def _seconds(stack: Stack) -> dict[str, float]:
    """Return the processor seconds of each process so far."""
    state = stack.state()
    # Without its children: they are read at other moments, and the difference could be negative.
    supervisor = psutil.Process(state.pid).cpu_times()
    return {
        **{each.name: cpu_seconds(each.pid) for each in state.processes if each.pid},
        "supervisor": supervisor.user + supervisor.system,
    }
