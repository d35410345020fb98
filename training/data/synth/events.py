"""What the viewers of a made-up world do: sessions, one block after the other, in order of time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from training.data.synth.world import DAY, REGIONS, START, TASTE_SHARES, World

SESSIONS_PER_BLOCK = 32_768
"""Drawn together from a generator of their own: memory is bounded by it, and a block doesn't
depend on those before."""
MEAN_LENGTH = 4.0
"""Of a session, in events."""
LONGEST = 40
NEXT_EPISODE = 0.45
"""How often the next episode follows, where there is one."""
STRAY = 0.1
"""How often something follows that isn't of the session's topic, but is in everyone's mouth."""
EVENING = 0.83
"""Of a day, when most sessions begin."""
CALM = 0.6
"""How much fewer there are at other times, below 1."""
_SPARE = 1.03
"""More sessions than the mean length asks for, so that there are events enough."""

Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]

PLAY, LIKE, HIDE = 0, 1, 2
"""Places in KINDS."""
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
    """Place in KINDS, int8[m]."""
    fraction: Float32Array
    """Of the video that was watched, float32[m]."""

    def take(self, chosen: Int64Array | slice) -> Events:
        """Those at some places."""
        return Events(*(getattr(self, field.name)[chosen] for field in fields(self)))

    @staticmethod
    def joined(parts: list[Events]) -> Events:
        """All parts, one after the other; at least one."""
        return Events(
            *(
                np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(Events)
            )
        )


def all_events(world: World) -> Iterator[Events]:
    """The world's events in order of time, as many as it is to have, some thousands at a time."""
    sessions = math.ceil(world.config.events / MEAN_LENGTH * _SPARE) + 64
    left, waiting = world.config.events, None
    for block, first in enumerate(range(0, sessions, SESSIONS_PER_BLOCK)):
        last = min(first + SESSIONS_PER_BLOCK, sessions)
        drawn = _block(world, block, first, last, sessions)
        if waiting is not None:
            drawn = Events.joined([waiting, drawn])
        drawn = drawn.take(np.argsort(drawn.time, kind="stable"))
        # A session that began in this block may end after the next one's first begins.
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
    """When a session begins that has this share of all before it, Unix seconds: evenings most."""
    days = share * world.config.days
    # Increases, and the slower, the more sessions there are: at EVENING slowest.
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
    lengths = np.minimum(random.geometric(1 / MEAN_LENGTH, count), LONGEST)
    before = np.full(count, -1, np.int64)
    parts = []
    for step in range(int(lengths.max())):
        on = np.flatnonzero(lengths > step)
        part, now[on] = _step(world, viewers[on], topics[on], before[on], now[on], random)
        before[on] = part.video
        parts.append(part)
    return Events.joined(parts)


def _step(
    world: World,
    viewers: Int64Array,
    topics: Int64Array,
    before: Int64Array,
    now: npt.NDArray[np.float64],
    random: np.random.Generator,
) -> tuple[Events, npt.NDArray[np.float64]]:
    """The next event of some sessions, and when the one after it comes."""
    count, seconds = len(viewers), now.astype(np.int64)
    strays = random.random(count) < STRAY
    everyones = np.full(count, REGIONS, np.int64)
    wanted = np.where(strays, world.drawn_topics(everyones, random.random(count)), topics)
    videos = world.drawn_videos(wanted, seconds, random)
    episodes = np.where(
        before >= 0, world.next_episodes(np.maximum(before, 0), seconds), np.int64(-1)
    )
    follow = (episodes >= 0) & (random.random(count) < NEXT_EPISODE)
    videos = np.where(follow, episodes, videos)
    liking = np.where(strays & ~follow, 0.35, 0.7)
    fraction = np.clip(random.normal(liking, 0.25, count), 0.02, 1.0).astype(np.float32)
    draw = random.random(count)
    kind = np.full(count, PLAY, np.int8)
    kind[(draw < 0.05) & (fraction > 0.5)] = LIKE
    hidden = (draw > 0.99) & (fraction < 0.5)
    kind[hidden] = HIDE
    fraction[hidden] = 0.0
    events = Events(viewers, videos, (now * 1e6).astype(np.int64), kind, fraction)
    return events, now + 5 + world.duration[videos] * fraction
