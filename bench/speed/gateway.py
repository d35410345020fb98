"""The cost of the gateway by itself, over a bare one.

Both call an upstream that answers from memory, whose processor time isn't counted. All are grpcio,
as the gateways of a stack are whatever its pods are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from bench.speed.asked import Question, questions_of
from bench.speed.bare import bare_server, write_viewers_of
from bench.speed.plan import CALLERS, SpeedPlan
from bench.speed.row import Figures, Row
from bench.speed.served import Served
from bench.speed.stand import SETTINGS, further_pod
from bench.stack import own_home, own_stack
from vireo.ops.stack.s3 import embedded_s3
from vireo.server.home import Home

_OWN, _BARE = "gateway alone", "the bare gateway"
_MAX_OVER_BARE = 1.4


def measure_gateway(home: Home, dataset: str, plan: SpeedPlan, console: Console) -> list[Row]:
    """Measure a gateway and a bare one, each alone, before the same upstream."""
    release = home.trained_release(dataset)
    stack = own_stack(own_home(home, "gateway"), release, settings=SETTINGS)
    folder, questions = stack.home.root, questions_of(home, dataset, plan.viewers)
    viewers = write_viewers_of(questions, folder / "viewers")
    with (
        embedded_s3(stack.settings),
        bare_server("memory", release, folder) as (memory, _),
        bare_server("gateway", release, folder, viewers, memory, memory) as bare,
        further_pod(stack, "gateway", _before(memory)) as own,
    ):
        processes = {_OWN: (own.address, own.pid), _BARE: bare}
        return asyncio.run(_rows(processes, questions, folder, plan, console))


def _before(upstream: str) -> dict[str, str]:
    """Return the settings of a gateway that calls an upstream which has no ReleaseService."""
    return {
        "VIREO_CANDIDATE_TARGET": upstream,
        "VIREO_RANKING_TARGET": upstream,
        "VIREO_RELEASE_SWAP_TIMEOUT": "0",
    }


async def _rows(
    processes: Mapping[str, tuple[str, int]],
    questions: Sequence[Question],
    folder: Path,
    plan: SpeedPlan,
    console: Console,
) -> list[Row]:
    # Once they were asked each question, the upstream has all answers in memory.
    gateways = {
        name: await Served.of(name, address, {name: pid}, questions, folder)
        for name, (address, pid) in processes.items()
    }
    figures = Figures(console)
    for number in figures.rounds(plan.rounds):
        # Much less than a slate's processor time each, and that is counted in steps of 10 ms.
        requests = 2 * plan.of_round(number).requests
        for callers in CALLERS:
            cpu = {}
            for name, each in gateways.items():
                cpu[name] = (await each.load(number, callers, requests)).cpu
                figures.add(f"CPU a request, {name}, c={callers}, ms", 1000 * cpu[name])
            over = f"CPU a request, {_OWN} over {_BARE}, c={callers}"
            figures.add(over, cpu[_OWN] / cpu[_BARE], _MAX_OVER_BARE)
    return figures.rows()
