"""The processor time of a stack with the default settings that nobody asks anything."""

from __future__ import annotations

import time

from rich.console import Console

from bench.process import cpu_seconds
from bench.speed.plan import SpeedPlan
from bench.speed.row import Row
from bench.stack import OwnStack, own_home, own_stack
from server.home import Home

_SETTLE_SECONDS = 10.0
"""After the start, whose last tasks would count."""
_MAX_SHARE = 0.02


def measure_idle(home: Home, dataset: str, plan: SpeedPlan, console: Console) -> list[Row]:
    """Measure all processes of an idle stack, the supervisor and S3 included."""
    stack = own_stack(own_home(home, "idle"), home.trained_release(dataset))
    console.print(f"leaving a stack alone for {plan.idle:.0f} s")
    with stack.running():
        time.sleep(min(_SETTLE_SECONDS, plan.idle))
        before, begun = _seconds(stack), time.monotonic()
        time.sleep(plan.idle)
        after, took = _seconds(stack), time.monotonic() - begun
    shares = {name: (after[name] - seconds) / took for name, seconds in before.items()}
    return [
        Row("idle stack, share of a core", sum(shares.values()), bound=_MAX_SHARE),
        *(Row(f"idle stack: {name}, share of a core", share) for name, share in shares.items()),
    ]


def _seconds(stack: OwnStack) -> dict[str, float]:
    """Return the processor seconds of each process so far."""
    state = stack.state()
    seconds = {each.name: cpu_seconds(each.pid) for each in state.processes if each.pid}
    everything = cpu_seconds(state.pid)
    return {**seconds, "supervisor": everything - sum(seconds.values())}
