"""Events of a synthetic world: viewers' sessions, block by block, in order of time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from vireo.training.data.synth.context import SessionContext, fitting, sessions_in_context
from vireo.training.data.synth.world import DAY, FAVOURITES, REGIONS, START, TASTE_SHARES, World

SESSIONS_PER_BLOCK = 32_768
"""Sessions drawn together, which bounds the memory. Each block has its own random generator, so it
doesn't depend on earlier blocks."""
MEAN_LENGTH = 4.0
"""Mean events per session."""
MAX_LENGTH = 40
"""Maximum events per session."""
NEXT_EPISODE = 0.45
"""Probability that the next episode follows, if there is one."""
STRAY = 0.1
"""Probability of a generally popular video outside the session's topic."""
EVENING = 0.83
"""Time of peak activity, as a fraction of the day."""
CALM = 0.6
"""Amplitude of the daily cycle, below 1: how much activity drops off peak."""
_SPARE = 1.03
"""Factor on the number of sessions, so that there are enough events."""

Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
Int8Array = npt.NDArray[np.int8]

PLAY, LIKE, HIDE = 0, 1, 2
"""Indices in KINDS."""
KINDS = ("play", "like", "hide")


@dataclass(frozen=True)
class Events:
    """Events in columns, in order of time."""

    viewer: Int64Array
    """Number of the viewer, int64[m]."""
    video: Int64Array
    """Row of the video, int64[m]."""
    time: Int64Array
    """Unix microseconds, int64[m]."""
    kind: npt.NDArray[np.int8]
    """Index in KINDS, int8[m]."""
    fraction: Float32Array
    """Watched fraction of the video, float32[m]."""
    zone: Int8Array
    """Index in ZONES of `vireo.training.data.synth.context`, -1 if it isn't logged, int8[m]."""
    locale: Int8Array
    """Index in LOCALES, likewise."""
    device: Int8Array
    """Index in DEVICES, likewise."""

    def take(self, chosen: Int64Array | slice) -> Events:
        """Return the events at some indices."""
        return Events(*(getattr(self, field.name)[chosen] for field in fields(self)))

    @staticmethod
    def joined(parts: list[Events]) -> Events:
        """Concatenate the parts, at least one."""
        return Events(
            *(
                np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(Events)
            )
        )


def all_events(world: World) -> Iterator[Events]:
    """Yield the world's `config.events` events in order of time, some thousands at a time."""
    sessions = math.ceil(world.config.events / MEAN_LENGTH * _SPARE) + 64
    left, waiting = world.config.events, None
    for block, first in enumerate(range(0, sessions, SESSIONS_PER_BLOCK)):
        last = min(first + SESSIONS_PER_BLOCK, sessions)
        drawn = _block(world, block, first, last, sessions)
        if waiting is not None:
            drawn = Events.joined([waiting, drawn])
        drawn = drawn.take(np.argsort(drawn.time, kind="stable"))
        # A session of this block may end after the next block's first session begins.
        end = _begin(world, np.array([last / sessions]))[0] * 1_000_000
        ready = len(drawn.time) if last == sessions else int(np.searchsorted(drawn.time, end))
        waiting = drawn.take(slice(ready, None))
        part = drawn.take(slice(0, min(ready, left)))
        left -= len(part.time)
        if len(part.time):
            yield part
        if not left:
            return


def _begin(world: World, share: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return when sessions at these quantiles begin, Unix seconds; they peak in evenings."""
    days = share * world.config.days
    # Monotone, and flattest at EVENING, where sessions are densest.
    days = days - CALM / (2 * np.pi) * np.sin(2 * np.pi * (days - EVENING))
    return np.asarray(START + days * DAY, np.float64)


def _block(world: World, block: int, first: int, last: int, sessions: int) -> Events:
    random = world.config.random(8, block)
    count = last - first
    share = (np.arange(first, last) + random.random(count)) / sessions
    now = _begin(world, share)
    viewers = np.searchsorted(world.activity, random.random(count), side="right")
    viewers = np.minimum(viewers, world.config.viewers - 1).astype(np.int64)
    slots = np.searchsorted(np.cumsum(TASTE_SHARES), random.random(count), side="right")
    topics = world.taste(viewers, np.minimum(slots, 3).astype(np.int64), now.astype(np.int64))
    topics, context = sessions_in_context(world, block, viewers, topics, now.astype(np.int64))
    lengths = np.minimum(random.geometric(1 / MEAN_LENGTH, count), MAX_LENGTH)
    before = np.full(count, -1, np.int64)
    choices = world.config.random(22, block)
    parts = []
    for step in range(int(lengths.max())):
        on = np.flatnonzero(lengths > step)
        logged = SessionContext(context.zone[on], context.locale[on], context.device[on])
        part, now[on] = _step(
            world, viewers[on], topics[on], before[on], now[on], logged, random, choices
        )
        before[on] = part.video
        parts.append(part)
    return Events.joined(parts)


def _step(
    world: World,
    viewers: Int64Array,
    topics: Int64Array,
    before: Int64Array,
    now: npt.NDArray[np.float64],
    context: SessionContext,
    random: np.random.Generator,
    choices: np.random.Generator,
) -> tuple[Events, npt.NDArray[np.float64]]:
    """Return the next event of some sessions, and the time of the one after it.

    `choices` draws what depends on the context, and repeats.
    """
    count, seconds = len(viewers), now.astype(np.int64)
    strays = random.random(count) < STRAY
    everyones = np.full(count, REGIONS, np.int64)
    wanted = np.where(strays, world.drawn_topics(everyones, random.random(count)), topics)
    videos = world.drawn_videos(wanted, seconds, random)
    if world.config.context:
        others = world.drawn_videos(wanted, seconds, choices)
        videos = fitting(context, world.duration, videos, others)
    episodes = np.where(
        before >= 0, world.next_episodes(np.maximum(before, 0), seconds), np.int64(-1)
    )
    follow = (episodes >= 0) & (random.random(count) < NEXT_EPISODE)
    videos = np.where(follow, episodes, videos)
    if world.config.repeats:
        own = world.favourites(viewers, topics, choices.integers(0, FAVOURITES, count))
        again = (choices.random(count) < world.config.repeats) & (world.published[own] <= seconds)
        videos = np.where(again, own, videos)
    liking = np.where(strays & ~follow, 0.35, 0.7)
    fraction = np.clip(random.normal(liking, 0.25, count), 0.02, 1.0).astype(np.float32)
    draw = random.random(count)
    kind = np.full(count, PLAY, np.int8)
    kind[(draw < 0.05) & (fraction > 0.5)] = LIKE
    hidden = (draw > 0.99) & (fraction < 0.5)
    kind[hidden] = HIDE
    fraction[hidden] = 0.0
    times = (now * 1e6).astype(np.int64)
    logged = (context.zone, context.locale, context.device)
    events = Events(viewers, videos, times, kind, fraction, *logged)
    return events, now + 5 + world.duration[videos] * fraction
