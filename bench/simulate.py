"""Night after night in a simulated world: visits, the log, training, the gate, promotion.

Two systems start from the same release of the same watches. Each night both train on the watches of
the log, and one of them also on what was shown.
"""

from __future__ import annotations

import asyncio
import shutil
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from bench.load import for_each
from bench.rows import Plan, Row
from bench.simulated_world import BIASED, NEUTRAL, SimulatedWorld, WorldSettings
from bench.site import Site, event, ids, opened_site
from bench.stack import PATIENCE, Stack, emptied, run_vireo
from vireo.ops.cli.own_stack import stack_environment
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
_SETTINGS = {
    "VIREO_LAYOUT": "together",
    "VIREO_SLATE_SHARE": "1",
    "VIREO_ARCHIVE_SECONDS": "1",
}
WORLDS = {"biased": BIASED, "neutral": NEUTRAL}
_NIGHTS, _SEEDS = (7, 1), (3, 1)
"""Nights and seeds of each world, and in the short form."""
_FEW = {"viewers": 150, "videos": 100, "new_videos": 2}
"""The worlds of the short form."""
_REFUSED = 4
"""Exit code of a release that the gate refuses."""
_Z_95 = 1.959964
_NIGHT_SECONDS = 45.0
_BOUNDS = {"biased": (1.1, 1.0), "neutral": (None, 0.95)}
"""Minimums of the ratio of plays per impression, and of the lower end of its interval."""


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
    """From the last visit of each day to the release that the night's training gave."""
    events: int = 0
    """Impressions and plays that were recorded."""
    refused: int = 0
    """Releases that the gate refused."""


def simulate(home: Home, name: str, plan: Plan, console: Console) -> list[Row]:
    """Return the figures of one of the worlds.

    Raises:
        VireoError: a stack can't be set up, or a command of the night failed.
    """
    nights, world = plan.of(*_NIGHTS), WORLDS[name]
    world = plan.of(world, replace(world, **_FEW))
    seeds = range(1, plan.of(*_SEEDS) + 1)
    pairs = [_seed(home, name, world, seed, nights, console) for seed in seeds]
    ratio, low, high = compared(pairs)
    every = [each for pair in pairs for each in pair]
    longest = max(second for each in every for second in each.seconds)
    refused = sum(each.refused for each in every)
    bounds = plan.of((*_BOUNDS[name], _NIGHT_SECONDS), (None, None, None))
    what = f"{name} world: plays per impression after {nights} nights"
    return [
        Row(f"{what}, over training on watches alone", ratio, (low, high), bounds[0], True),
        Row(f"{name} world: lower end of that interval", low, None, bounds[1], True),
        Row(f"{name} world: the longest night, s", longest, bound=bounds[2]),
        Row(f"{name} world: releases that the gate refused", refused),
        Row(f"{name} world: releases in all", len(every) * nights),
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
    home: Home, name: str, settings: WorldSettings, seed: int, count: int, console: Console
) -> tuple[Nights, Nights]:
    """Return the nights of a system that learns from what was shown, and of one that doesn't."""
    base = emptied(home, f"simulate/{name}-{seed}")
    world = SimulatedWorld(settings, seed, count)
    videos, interactions = world.write(base.root)
    own = {**stack_environment(base), **_SETTINGS}
    files = ["--interactions", str(interactions), "--videos", str(videos)]
    run_vireo(["data", "import", *files, "--data", _DATASET], own)
    train = ["train", "--data", _DATASET, "--profile", str(_PROFILE)]
    run_vireo(train, own)
    systems = []
    for system, options in (("log", ["--from-log"]), ("watches", [])):
        place = emptied(home, f"simulate/{name}-{seed}-{system}")
        shutil.rmtree(place.root)
        shutil.copytree(base.root, place.root, symlinks=True)
        stack = Stack.of(place, place.trained_release(_DATASET), settings=_SETTINGS)
        with stack.running():
            fresh = SimulatedWorld(settings, seed, count)
            nights = asyncio.run(_nights(stack, fresh, [*train, *options], count, console))
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
            await _day(site, world, day, nights)
            begun = time.monotonic()
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
    viewers = world.viewer_ids

    async def visit(number: int) -> None:
        viewer = viewers[number]
        slate = await site.slate(viewer, _PAGE)
        page = ids(slate)
        played = world.plays(viewer, page, day)
        events = _events(viewer, slate.request_id, page, played)
        play, found = event_pb2.EVENT_KIND_PLAY, world.found(viewer, day)
        events += [event(uuid.uuid4().hex, viewer, play, video) for video in found]
        await site.record(events)
        nights.events += len(events)
        nights.plays[number] += sum(played)
        nights.impressions[number] += len(page)

    await for_each(range(len(viewers)), visit, _CALLERS)
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
