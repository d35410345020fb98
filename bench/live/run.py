"""All measurements of events, the live catalogue, requests and learning, one after the other."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console

from bench.live.effect import measure_catalogue, measure_effect, measure_hides
from bench.live.learn import SHARE, measure_cost, measure_lost, measure_replay
from bench.live.neighbours import measure_batches, measure_share
from bench.live.slates import measure_filters, measure_pages, measure_swaps
from bench.live.stack import Catalogue, LiveStack
from bench.rows import Plan, Row, attempted
from bench.simulate import WORLDS, simulate
from bench.stack import Stack, built_home
from tests.builders.redis import running_redis
from vireo.server.home import Home
from vireo.server.releases.manifest import Manifest, Quotas
from vireo.training.features.watches import load_watches

PARTS = {
    "live": ("swap", "effect", "hide", "catalogue"),
    "requests": ("batch", "filters", "pages", "share"),
    "learn": ("cost", "lost", "replay", *WORLDS),
}
"""By command."""

_Step: TypeAlias = Callable[[LiveStack], Coroutine[Any, Any, list[Row]]]
_VIEWERS = (1_000, 20)
"""Viewers whose slates are asked for, and in the short form."""
_SETTINGS = {
    # How long pods keep the previous release; the default is too long to wait for 20 times.
    "VIREO_KEEP_PREVIOUS_SECONDS": "5",
    # The edge knows callers by the address that they state.
    "VIREO_TRUSTED_HOPS": "1",
}
_RECORDED = {"VIREO_SLATE_SHARE": "1", "VIREO_ARCHIVE_SECONDS": "2"}
_STACKS: Mapping[str, tuple[Mapping[str, str], Mapping[str, _Step]]] = {
    "sqlite": (
        {},
        {
            # What is trending changes slates: at first there were no events.
            "swap": measure_swaps,
            "effect": partial(measure_effect, store="sqlite"),
            "hide": measure_hides,
            "batch": measure_batches,
            "filters": measure_filters,
            "pages": measure_pages,
            "catalogue": measure_catalogue,
            # It adds videos that aren't in the data set, with which filters are compared.
            "share": measure_share,
        },
    ),
    "redis": ({"VIREO_ONLINE_STORE": "redis"}, {"effect": partial(measure_effect, store="redis")}),
    "cost": ({**_RECORDED, "VIREO_SLATE_SHARE": str(SHARE)}, {"cost": measure_cost}),
    "lost": (_RECORDED, {"lost": measure_lost}),
    "replay": (_RECORDED, {"replay": measure_replay}),
}
"""Further settings of each stack, and what is measured on it, in this order."""


def measure(
    home: Home, dataset: str, plan: Plan, console: Console, parts: Collection[str]
) -> Iterator[Row]:
    """Yield each figure when it is there; what couldn't be measured is a row that doesn't hold.

    Args:
        home: has the data set, and a release that was trained on it.
        dataset: its name.
        plan: how much to measure.
        console: for progress.
        parts: which of PARTS.

    Raises:
        VireoError: a stack can't be set up or started.
    """
    for name, (_, steps) in _STACKS.items():
        chosen = {part: step for part, step in steps.items() if part in parts}
        if chosen and (plan.timed or name != "redis"):
            with _running(name, home, dataset, plan, console) as live:
                for part, step in chosen.items():
                    yield from attempted(console, part, partial(_run, step, live))
    for world in WORLDS:
        if world in parts:
            yield from attempted(console, world, partial(simulate, home, world, plan, console))


@contextmanager
def _running(
    name: str, home: Home, dataset: str, plan: Plan, console: Console
) -> Iterator[LiveStack]:
    """Build the features of a data set anew, and run one of the stacks on them."""
    settings = {**_SETTINGS, "VIREO_LAYOUT": plan.layout, **_STACKS[name][0]}
    release = home.trained_release(dataset)
    console.print(f"building the features of {dataset} and starting a stack")
    with ExitStack() as resources:
        if name == "redis":
            folder = home.root / "bench" / "live" / "valkey"
            shutil.rmtree(folder, ignore_errors=True)
            redis = resources.enter_context(running_redis(folder, append_only=True))
            settings["VIREO_REDIS_URL"] = redis.url
        own = built_home(home, f"live/{name}", dataset, settings)
        watches, count = load_watches(own, dataset), plan.of(*_VIEWERS)
        viewers = [str(each) for each in watches["viewer_id"].drop_duplicates().head(count)]
        viewers += [f"stranger-{number}" for number in range(count - len(viewers))]
        twin, catalogue = _twin(release, own.root / "twin"), Catalogue.load(home, dataset)
        stack = Stack.of(own, release, twin, settings=settings)
        resources.enter_context(stack.running())
        yield LiveStack(stack, dataset, plan, console, viewers, catalogue)


def _twin(release: Path, target: Path) -> Path:
    """Write a release of the same files that draws and orders candidates otherwise."""
    shutil.copytree(release, target)
    manifest = Manifest.read(release)
    quotas, weights = manifest.quotas, manifest.score_weights
    changed = {
        "release_id": f"{manifest.release_id}-twin",
        "quotas": Quotas({**quotas.root, "popular": quotas.root["popular"] + 0.2}),
        "score_weights": weights.with_diversity(weights.diversity + 3.0),
    }
    manifest.model_copy(update=changed).write(target)
    return target


def _run(step: _Step, live: LiveStack) -> list[Row]:
    return asyncio.run(step(live))
