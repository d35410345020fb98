"""All measurements of the live half, one after the other."""

from __future__ import annotations

import asyncio
import math
import shutil
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from rich.console import Console

from bench.live import swap
from bench.live.catalogue import measure_catalogue
from bench.live.effect import measure_effect
from bench.live.hide import measure_hides
from bench.live.stack import LivePlan, LiveStack, live_stack
from bench.load import closed_load
from bench.replay import opened_replay
from bench.rows import Figures, Row, attempted
from bench.site import Recorder
from bench.stack import until
from tests.builders.nats import RunningNats, running_cluster, settings_of
from tests.builders.redis import running_redis
from vireo.server.errors import VireoError
from vireo.server.event_log.connection import Connection
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.home import Home
from vireo.v1 import event_pb2

PARTS = ("swap", "effect", "beside", "hide", "catalogue", "cluster")
"""In the order in which they are measured."""
_MAX_RATIO = 1.1
_INTAKE = 500
"""Events of a batch."""
_MIN_INTAKE = 5_000.0
_DURABLE_VIEWERS = 2_000

Step: TypeAlias = Callable[[LiveStack], Coroutine[Any, Any, list[Row]]]


def measure_live(
    home: Home, dataset: str, plan: LivePlan, console: Console, parts: Sequence[str] = PARTS
) -> Iterator[Row]:
    """Yield each figure when it is there; what couldn't be measured is a row that doesn't hold.

    Args:
        home: has the data set, and a release that was trained on it.
        dataset: its name.
        plan: how much to measure.
        console: for progress.
        parts: which measurements.

    Raises:
        VireoError: a stack can't be set up or started.
    """
    folder, release = home.root / "bench" / "live", home.trained_release(dataset)
    for store in plan.stores:
        first = store == plan.stores[0]
        # Swaps come first: what is trending changes slates, and there were no events yet.
        steps: dict[str, Step] = {"swap": swap.measure_swaps} if first else {}
        steps["effect"] = partial(measure_effect, store=store)
        if first:
            steps |= {
                "beside": _measure_beside,
                "hide": lambda live: measure_hides(live, release),
                "catalogue": measure_catalogue,
            }
        chosen = {name: step for name, step in steps.items() if name in parts}
        if not chosen:
            continue
        with ExitStack() as resources:
            settings = {"VIREO_ONLINE_STORE": store, **swap.SETTINGS}
            if store == "redis":
                shutil.rmtree(folder / "valkey", ignore_errors=True)
                redis = running_redis(folder / "valkey", append_only=True)
                settings["VIREO_REDIS_URL"] = resources.enter_context(redis).url
            opened = live_stack(home, dataset, plan, console, store, settings)
            live = resources.enter_context(opened)
            for name, step in chosen.items():
                yield from measured(live, name, step)
    if "cluster" in parts:
        yield from _measure_cluster(home, dataset, plan, console)


def measured(live: LiveStack, name: str, step: Step) -> list[Row]:
    """Return the rows of a step on a stack; one that doesn't hold if it fails."""
    return attempted(live.console, name, lambda: asyncio.run(step(live)))


async def _measure_beside(live: LiveStack) -> list[Row]:
    """Ask for slates with and without events beside them, in turns; then record events alone."""
    plan, figures = live.plan, Figures(live.console)
    for _ in figures.rounds(plan.rounds):
        quiet, busy = await _slates(live, events=False), await _slates(live, events=True)
        figures.add("slates without events, p50 ms", quiet * 1e3)
        figures.add(f"slates beside {plan.rate:.0f} events/s, p50 ms", busy * 1e3)
        bound = _MAX_RATIO if plan.timed else None
        figures.add("slates beside events over slates without, p50", busy / quiet, bound)
    intake = Recorder(
        live.edge,
        live.videos,
        math.inf,
        plan.patience,
        size=_INTAKE,
        writers=4,
        kinds=[event_pb2.EVENT_KIND_IMPRESSION],
        past=0.0,
        again=0.0,
    )
    begun = time.monotonic()
    async with intake:
        await asyncio.sleep(plan.seconds)
    rate = len(intake.acknowledged) / (time.monotonic() - begun)
    bound = _MIN_INTAKE if plan.timed else None
    recorded = Row("events/s that are recorded in batches", rate, bound=bound, at_least=True)
    return [*figures.rows(), recorded]


async def _slates(live: LiveStack, *, events: bool) -> float:
    """Return the median latency in seconds of one caller's slates."""
    async with AsyncExitStack() as flow:
        if events:
            await flow.enter_async_context(live.flow())
        answers = await closed_load(live.edge, live.viewers, 1, live.plan.seconds)
    good = [each.seconds for each in answers if not each.failure]
    if len(good) < len(answers) or not good:
        raise VireoError(f"{len(answers) - len(good)} of {len(answers)} slates failed")
    return float(np.median(good))


def _measure_cluster(home: Home, dataset: str, plan: LivePlan, console: Console) -> Iterator[Row]:
    """Record events while processes on their way are killed, and the leader of the log's servers.

    Chaos cases do the same with one server.
    """
    folder = home.root / "bench" / "live" / "servers"
    shutil.rmtree(folder, ignore_errors=True)  # servers of other names have left their data there
    with running_cluster(folder) as servers:
        log = settings_of(*servers, event_replicas=len(servers))
        settings = {
            "VIREO_NATS_URL": log.nats_url,
            "VIREO_NATS_TOKEN": log.nats_token.get_secret_value(),
            "VIREO_EVENT_REPLICAS": str(log.event_replicas),
        }
        with live_stack(home, dataset, plan, console, "cluster", settings) as live:
            step = partial(_measure_durable, log=log, servers=servers)
            yield from measured(live, "cluster", step)


async def _measure_durable(
    live: LiveStack, log: EventLogSettings, servers: Sequence[RunningNats]
) -> list[Row]:
    plan, stack = live.plan, live.stack
    recorder = Recorder(
        live.edge,
        live.videos,
        math.inf,
        plan.patience,
        viewers=_DURABLE_VIEWERS,
        size=min(_INTAKE, plan.events // 10),
        writers=4,
    )
    names = [*stack.names("gateway", "consumer"), "envoy"]
    faults = [partial(live.kill, [name]) for name in names]
    faults.append(partial(_leader_killed, log, servers))
    async with opened_replay(stack.home, live.dataset, log) as replay:
        async with recorder:
            for number, fault in enumerate(faults, start=1):
                enough = number * plan.events // (len(faults) + 1)

                async def written(enough: int = enough) -> bool:
                    return recorder.running.done() or len(recorder.acknowledged) >= enough

                await until(written, "recording", plan.patience)
                await fault()
            await until(partial(written, plan.events), "recording", plan.patience)
        live.console.print(f"{len(recorder.refusals)} calls were repeated")
        caught_up = await until(replay.applied, "the consumer", plan.patience, pause=0.2)
        found = await replay.compare(recorder)
    where = "three servers"
    return [
        Row(f"{where}: acknowledged events that aren't in the log", found.missing, bound=0),
        Row(
            f"{where}: rows that differ from a clean replay, of {found.viewers}",
            found.differing,
            bound=0,
        ),
        Row(f"{where}: seconds that the consumer was behind at the end", caught_up),
    ]


async def _leader_killed(log: EventLogSettings, servers: Sequence[RunningNats]) -> None:
    """Kill -9 the server that leads the stream of events, and start it again."""
    connection = await Connection.open(log)
    cluster = (await connection.ask("$JS.API.STREAM.INFO.vireo_events")).get("cluster", {})
    await connection.close()
    names = {each.configuration["server_name"]: each for each in servers}
    victim = names.get(cluster.get("leader"), servers[0])
    victim.kill()
    await asyncio.to_thread(victim.start)
