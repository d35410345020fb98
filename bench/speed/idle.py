"""The processor time of an idle stack with the default settings."""

from __future__ import annotations

import asyncio
import time

import psutil
from rich.console import Console

from bench.process import cpu_seconds
from bench.speed.asked import asking, questions_of
from bench.speed.plan import SpeedPlan
from bench.speed.row import Row
from bench.stack import OwnStack, own_home, own_stack
from vireo.server.errors import VireoError
from vireo.server.home import Home

_SETTLE_SECONDS = 10.0
"""After the start and the first slate, whose last tasks would count."""
_ASK_SECONDS = 30.0
_MAX_SHARE = 0.02


def measure_idle(home: Home, dataset: str, plan: SpeedPlan, console: Console) -> list[Row]:
    """Measure all processes of an idle stack, the supervisor and S3 included.

    It has answered once, as stacks in real life have: before a cluster's first call Envoy has
    less to do.
    """
    release = home.trained_release(dataset)
    stack = own_stack(own_home(home, "idle"), release)
    with stack.running():
        asyncio.run(_ask_once(home, dataset, stack))
        console.print(f"leaving a stack alone for {plan.idle:.0f} s")
        time.sleep(min(_SETTLE_SECONDS, plan.idle))
        before, begun = _seconds(stack), time.monotonic()
        time.sleep(plan.idle)
        after, took = _seconds(stack), time.monotonic() - begun
    shares = {name: (after[name] - seconds) / took for name, seconds in before.items()}
    return [
        Row("idle stack, share of a core", sum(shares.values()), bound=_MAX_SHARE),
        *(Row(f"idle stack: {name}, share of a core", share) for name, share in shares.items()),
    ]


async def _ask_once(home: Home, dataset: str, stack: OwnStack) -> None:
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


def _seconds(stack: OwnStack) -> dict[str, float]:
    """Return the processor seconds of each process so far."""
    state = stack.state()
    # Without its children: they are read at other moments, and the difference could be negative.
    supervisor = psutil.Process(state.pid).cpu_times()
    return {
        **{each.name: cpu_seconds(each.pid) for each in state.processes if each.pid},
        "supervisor": supervisor.user + supervisor.system,
    }
