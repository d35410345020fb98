"""Night after night in a simulated world: visits, the log, training, the gate, promotion.

Two systems start from the same release of the same watches. Each night both train on the watches of
the log, and one of them also on what was shown.
"""

from __future__ import annotations

import asyncio
import shutil
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from bench.rows import Row
from bench.simulated_world import BIASED, NEUTRAL, SimulatedWorld, WorldSettings
from bench.site import Site, event, opened_site
from bench.stack import PATIENCE, Stack, emptied, run_vireo
from vireo.ops.cli.own_stack import stack_environment
from vireo.ops.stack.state import Layout
from vireo.server.arrays import Float64Array
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.releases.manifest import Manifest
from vireo.v1 import event_pb2

_DATASET = "site"
_PROFILE = Path(__file__).with_suffix(".toml")
_PAGE = 10
"""Videos of the page that each viewer looks at once a day."""
_CALLERS = 8
_SETTINGS = {"VIREO_SLATE_SHARE": "1", "VIREO_ARCHIVE_SECONDS": "1"}
_REFUSED = 4
"""Exit code of a release that the gate refuses."""
_Z_95 = 1.959964
_NIGHT_SECONDS = 45.0
_BOUNDS = {"biased": (1.1, 1.0), "neutral": (None, 0.95)}
"""Minimums of the ratio of plays per impression, and of the lower end of its interval."""


@dataclass(frozen=True)
class SimulationPlan:
    """How long is simulated."""

    layout: Layout = "together"
    timed: bool = True
    nights: int = 7
    seeds: int = 3
    worlds: Mapping[str, WorldSettings] = field(
        default_factory=lambda: {"biased": BIASED, "neutral": NEUTRAL}
    )


FULL = SimulationPlan()
_FEW = {"viewers": 150, "videos": 100, "new_videos": 2}
SHORT = SimulationPlan(
    timed=False,
    nights=1,
    seeds=1,
    worlds={name: replace(world, **_FEW) for name, world in FULL.worlds.items()},
)
"""For CI: a night, of which nothing is judged."""


@dataclass
class Nights:
    """What came of the nights of one system."""

    plays: Float64Array
    """Plays of each viewer on the last day, float64[v]."""
    impressions: Float64Array
    """Impressions of each viewer on the last day, float64[v]."""
    rates: list[float] = field(default_factory=list)
    """Plays per impression of each day."""
    seconds: list[float] = field(default_factory=list)
    """From the first visit of each day to the release that the night's training gave."""
    events: int = 0
    """Impressions and plays that were recorded."""
    refused: int = 0
    """Releases that the gate refused."""


def simulate(home: Home, name: str, plan: SimulationPlan, console: Console) -> list[Row]:
    """Return the figures of one of the plan's worlds.

    Raises:
        VireoError: a stack can't be set up, or a command of the night failed.
    """
    pairs = [
        _seed(home, name, plan.worlds[name], seed, plan, console)
        for seed in range(1, plan.seeds + 1)
    ]
    ratio, low, high = compared(pairs)
    every = [each for pair in pairs for each in pair]
    longest = max(second for each in every for second in each.seconds)
    refused = sum(each.refused for each in every)
    of_ratio, of_low = _BOUNDS[name]
    bounds = (of_ratio, of_low, _NIGHT_SECONDS) if plan.timed else (None, None, None)
    what = f"{name} world: plays per impression after {plan.nights} nights"
    return [
        Row(f"{what}, over training on watches alone", ratio, (low, high), bounds[0], True),
        Row(f"{name} world: lower end of that interval", low, None, bounds[1], True),
        Row(f"{name} world: the longest day and night, s", longest, bound=bounds[2]),
        Row(f"{name} world: releases that the gate refused", refused),
        Row(f"{name} world: releases in all", len(every) * plan.nights),
    ]


def compared(pairs: Collection[tuple[Nights, Nights]]) -> tuple[float, float, float]:
    """Return the ratio of the first systems' plays per impression to the others', and its interval.

    The interval holds 95%; viewers, each of whom met both systems, are its unit (delta method). It
    leaves out what trainings with other seeds would give.
    """
    first, other = (
        [
            np.concatenate([getattr(pair[k], name) for pair in pairs])
            for name in ("plays", "impressions")
        ]
        for k in (0, 1)
    )
    logs, influence = [], []
    for plays, impressions in (first, other):
        rate = plays.sum() / impressions.sum()
        logs.append(np.log(rate))
        influence.append((plays - rate * impressions) / plays.sum())
    error = np.sqrt(np.sum((influence[0] - influence[1]) ** 2))
    middle = logs[0] - logs[1]
    low, ratio, high = np.exp([middle - _Z_95 * error, middle, middle + _Z_95 * error])
    return float(ratio), float(low), float(high)


def _seed(
    home: Home,
    name: str,
    settings: WorldSettings,
    seed: int,
    plan: SimulationPlan,
    console: Console,
) -> tuple[Nights, Nights]:
    """Return the nights of a system that learns from what was shown, and of one that doesn't."""
    base = emptied(home, f"simulate/{name}-{seed}")
    world = SimulatedWorld(settings, seed, plan.nights)
    videos, interactions = world.write(base.root)
    own = {**stack_environment(base), **_SETTINGS, "VIREO_LAYOUT": plan.layout}
    files = ["--interactions", str(interactions), "--videos", str(videos)]
    run_vireo(["data", "import", *files, "--data", _DATASET], own)
    train = ["train", "--data", _DATASET, "--profile", str(_PROFILE)]
    run_vireo(train, own)
    systems = []
    for system, options in (("log", ["--from-log"]), ("watches", [])):
        place = emptied(home, f"simulate/{name}-{seed}-{system}")
        shutil.rmtree(place.root)
        shutil.copytree(base.root, place.root, symlinks=True)
        variables = {**_SETTINGS, "VIREO_LAYOUT": plan.layout}
        stack = Stack.of(place, place.trained_release(_DATASET), settings=variables)
        with stack.running():
            fresh = SimulatedWorld(settings, seed, plan.nights)
            nights = asyncio.run(_nights(stack, fresh, [*train, *options], plan.nights, console))
        rates = " ".join(f"{rate:.4f}" for rate in nights.rates)
        longest = max(nights.seconds)
        console.print(
            f"{name} world, seed {seed}, {system}: plays per impression {rates}; longest night "
            f"{longest:.0f} s; {nights.refused} refused",
            soft_wrap=True,
        )
        systems.append(nights)
    ratio, low, high = compared([(systems[0], systems[1])])
    console.print(f"{name} world, seed {seed}: {ratio:.3f} ({low:.3f} to {high:.3f})")
    return systems[0], systems[1]


async def _nights(
    stack: Stack, world: SimulatedWorld, train: list[str], count: int, console: Console
) -> Nights:
    """Run days and their nights, and one day more, which the last night's release serves."""
    nights = Nights(np.zeros(world.settings.viewers), np.zeros(world.settings.viewers))
    async with opened_site(stack.settings.edge, PATIENCE) as site:
        for day in range(1, count + 2):
            begun = time.monotonic()
            await _day(site, world, day, nights)
            if day > count:
                return nights
            await stack.archived("slates", day * world.settings.viewers)
            await stack.archived("events", nights.events)
            if refusal := await _night(stack, train):
                nights.refused += 1
                console.print(f"day {day}: {refusal}", soft_wrap=True)
            nights.seconds.append(time.monotonic() - begun)
    raise AssertionError("the last day returns")


async def _day(site: Site, world: SimulatedWorld, day: int, nights: Nights) -> None:
    """Publish the day's videos, and let each viewer look at a page, and play what they find."""
    if day > 1:
        await site.upsert(world.published(day - 1))
    nights.plays[:], nights.impressions[:] = 0, 0
    waiting = iter(enumerate(world.viewer_ids))

    async def visits() -> None:
        for number, viewer in waiting:
            slate = await site.slate(viewer, _PAGE)
            page = [item.video_id for item in slate.items]
            played = world.plays(viewer, page, day)
            events = _events(viewer, slate.request_id, page, played)
            play = event_pb2.EVENT_KIND_PLAY
            events += [
                event(uuid.uuid4().hex, viewer, play, video) for video in world.found(viewer, day)
            ]
            await site.record(events)
            nights.events += len(events)
            nights.plays[number] += sum(played)
            nights.impressions[number] += len(page)

    async with asyncio.TaskGroup() as callers:
        for _ in range(_CALLERS):
            callers.create_task(visits())
    nights.rates.append(float(nights.plays.sum() / nights.impressions.sum()))


def _events(
    viewer: str, request_id: str, page: list[str], played: list[bool]
) -> list[event_pb2.Event]:
    """Return what a viewer's device records of a page."""
    events = []
    for place, (video, is_played) in enumerate(zip(page, played, strict=True)):
        for kind in (event_pb2.EVENT_KIND_IMPRESSION, event_pb2.EVENT_KIND_PLAY)[: 1 + is_played]:
            made = event(uuid.uuid4().hex, viewer, kind, video)
            made.request_id, made.position = request_id, place + 1
            events.append(made)
    return events


async def _night(stack: Stack, train: list[str]) -> str:
    """Train on the log and publish; return why the gate refused the release, empty if it didn't."""
    from_events = ["data", "from-events", "--data", _DATASET, "--base", _DATASET, "--replace"]
    for command in (from_events, train):
        await asyncio.to_thread(run_vireo, command, stack.environment)
    published = await stack.vireo("release", "publish", "--data", _DATASET)
    if published.returncode == _REFUSED:
        return published.stderr.partition("error: ")[2].partition("; train a better one")[0]
    if published.returncode:
        raise VireoError(f"vireo release publish failed: {published.stderr[-500:]}")
    await stack.until_served(Manifest.read(stack.home.trained_release(_DATASET)).release_id)
    return ""
