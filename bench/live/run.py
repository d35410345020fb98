"""All measurements of the live half, one after the other."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from rich.console import Console

from bench.live.beside import measure_beside
from bench.live.catalogue import measure_catalogue
from bench.live.durable import Fault, measure_durable
from bench.live.effect import measure_effect
from bench.live.hide import measure_hides
from bench.live.log import leader, measure_log
from bench.live.plan import LivePlan
from bench.live.stack import LiveStack, live_stack
from bench.nats import RunningNats, running_cluster, settings_of
from bench.speed.row import Row
from bench.valkey import running_valkey
from vireo.ops.stack.nats import reachable_log
from vireo.server.errors import VireoError
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.home import Home

PARTS = ("log", "beside", "hide", "catalogue", "durable", "cluster", "effect")
"""In the order in which they are measured."""


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
    folder = home.root / "bench" / "live"
    release = home.trained_release(dataset)
    if "log" in parts:
        yield from measure_log(folder / "log", plan, console)
    for store in plan.stores:
        steps: dict[str, Callable[[LiveStack], Coroutine[Any, Any, list[Row]]]] = {
            "effect": partial(measure_effect, store=store)
        }
        if store == plan.stores[0]:
            steps |= {
                "beside": measure_beside,
                "hide": lambda live: measure_hides(live, release),
                "catalogue": measure_catalogue,
                "durable": lambda live: measure_durable(
                    live, "one server", reachable_log(live.stack.settings), _kills(live)
                ),
            }
        chosen = {name: step for name, step in steps.items() if name in parts}
        if chosen:
            with ExitStack() as resources:
                settings = {"VIREO_ONLINE_STORE": store}
                if store == "redis":
                    url = resources.enter_context(
                        running_valkey(folder / "valkey", append_only=True)
                    ).url
                    settings["VIREO_REDIS_URL"] = url
                live = resources.enter_context(
                    live_stack(home, dataset, plan, console, store, settings)
                )
                for name, step in chosen.items():
                    yield from measured(live, name, step)
    if "cluster" in parts:
        yield from _cluster(home, dataset, plan, console)


def _cluster(home: Home, dataset: str, plan: LivePlan, console: Console) -> Iterator[Row]:
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
            killed = partial(_leader_killed, log, servers)
            yield from measured(
                live, "cluster", lambda live: measure_durable(live, "three servers", log, [killed])
            )


def measured(
    live: LiveStack, name: str, step: Callable[[LiveStack], Coroutine[Any, Any, list[Row]]]
) -> list[Row]:
    """Return the rows of a step on a stack; one that doesn't hold if it fails."""
    return attempted(live.console, name, lambda: asyncio.run(step(live)))


def attempted(console: Console, name: str, step: Callable[[], list[Row]]) -> list[Row]:
    """Return the rows of a step; one that doesn't hold, with the reason, if it fails."""
    console.print(f"measuring: {name}")
    try:
        return step()
    except (VireoError, TimeoutError, ExceptionGroup) as failed:
        reason = _first(failed)
        if not isinstance(reason, (VireoError, TimeoutError)):
            raise
        return [Row(f"{name}: {reason or 'took too long'}", 0, bound=1, at_least=True)]


def _first(failed: BaseException) -> BaseException:
    return _first(failed.exceptions[0]) if isinstance(failed, BaseExceptionGroup) else failed


def _kills(live: LiveStack) -> list[Fault]:
    """Return the kill -9 of each process on an event's way, in turn."""
    names = [*live.names("gateway", "consumer"), "log", "envoy"]
    return [partial(live.kill, [name]) for name in names]


async def _leader_killed(log: EventLogSettings, servers: Sequence[RunningNats]) -> None:
    victim = await leader(log, servers)
    victim.kill()
    await asyncio.to_thread(victim.start)
