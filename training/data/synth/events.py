"""Events of a synthetic world: viewers' sessions, block by block, in order of time.

In a world with context viewers live in the zone of their region, and speak its language and another
one. A part of their sessions is about what people watch at that hour in the language of the
session, whatever their own tastes; on a TV they choose longer videos than on a phone. All that has
random numbers of its own, so that a world without context stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from vireo.server.arrays import Int64Array
from vireo.server.features.context import DEVICES
from vireo.training.data.context import hours_and_weekdays
from vireo.training.data.schema import EVENTS
from vireo.training.data.synth.world import (
    DAY,
    FAVOURITES,
    REGIONS,
    START,
    TASTE_SHARES,
    World,
    hashed,
)

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

ZONES = ("Europe/Zurich", "America/Sao_Paulo", "Asia/Kolkata", "Asia/Tokyo", "Africa/Lagos")
"""Time zone of each region."""
LOCALES = ("de-CH", "pt-BR", "hi-IN", "ja-JP", "en-NG")
"""Locale of each region."""
OWN_LANGUAGE = 0.7
"""Share of the sessions in the language of the viewer's region; others are in the second one."""
BY_CONTEXT = 0.6
"""Share of the sessions whose topic follows hour and language."""
PARTS = 4
"""Parts of the day, of six hours each; every topic belongs to one."""
_DEVICE_SHARES = np.cumsum(
    [[0.75, 0.10, 0.05], [0.55, 0.15, 0.05], [0.40, 0.15, 0.15], [0.25, 0.15, 0.50]], axis=1
)
"""Cumulative shares of the first DEVICES by part of the day; the rest is the last one's."""

PLAY, LIKE, HIDE = (EVENTS.index(kind) for kind in ("play", "like", "hide"))
EVENT = np.dtype(
    [
        ("viewer", np.int64),  # number of the viewer
        ("video", np.int64),  # row of the video
        ("time", np.int64),  # Unix microseconds
        ("kind", np.int8),  # index in EVENTS
        ("fraction", np.float32),  # watched fraction of the video
        ("time_zone", np.int8),  # index in ZONES, -1 in a world without context
        ("locale", np.int8),  # index in LOCALES, likewise
        ("device", np.int8),  # index in DEVICES, likewise
    ]
)
Events = npt.NDArray[np.void]
"""Events in order of time, EVENT[m]; of a session, what is the same for all of its events."""


def all_events(world: World) -> Iterator[Events]:
    """Yield the world's `config.events` events in order of time, some thousands at a time."""
    sessions = math.ceil(world.config.events / MEAN_LENGTH * _SPARE) + 64
    left, waiting = world.config.events, np.empty(0, EVENT)
    for block, first in enumerate(range(0, sessions, SESSIONS_PER_BLOCK)):
        last = min(first + SESSIONS_PER_BLOCK, sessions)
        drawn = np.concatenate([waiting, _block(world, block, first, last, sessions)])
        drawn = drawn[np.argsort(drawn["time"], kind="stable")]
        # A session of this block may end after the next block's first session begins.
        end = _begin(world, np.array([last / sessions]))[0] * 1_000_000
        ready = len(drawn) if last == sessions else int(np.searchsorted(drawn["time"], end))
        waiting, part = drawn[ready:], drawn[: min(ready, left)]
        left -= len(part)
        if len(part):
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
    random, count = world.config.random(8, block), last - first
    share = (np.arange(first, last) + random.random(count)) / sessions
    now = _begin(world, share)
    own = np.zeros(count, EVENT)
    viewers = np.searchsorted(world.activity, random.random(count), side="right")
    own["viewer"] = np.minimum(viewers, world.config.viewers - 1)
    slots = np.searchsorted(np.cumsum(TASTE_SHARES), random.random(count), side="right")
    seconds = now.astype(np.int64)
    topics = world.taste(own["viewer"], np.minimum(slots, 3).astype(np.int64), seconds)
    for name in ("time_zone", "locale", "device"):
        own[name] = -1
    if world.config.context:
        topics = _in_context(world, block, own, topics, seconds)
    lengths = np.minimum(random.geometric(1 / MEAN_LENGTH, count), MAX_LENGTH)
    before = np.full(count, -1, np.int64)
    choices = world.config.random(22, block)
    parts = []
    for step in range(int(lengths.max())):
        on = np.flatnonzero(lengths > step)
        part, now[on] = _step(world, own[on], topics[on], before[on], now[on], random, choices)
        before[on] = part["video"]
        parts.append(part)
    return np.concatenate(parts)


def _in_context(
    world: World, block: int, sessions: Events, topics: Int64Array, seconds: Int64Array
) -> Int64Array:
    """Set the context of m sessions in place, and return the topics that they have in it, int64[m].

    Args:
        world: the world.
        block: number of the block of sessions.
        sessions: the sessions, with their viewers.
        topics: topic of each by the viewer's own taste, int64[m].
        seconds: when each begins, Unix seconds, int64[m].
    """
    random, count = world.config.random(20, block), len(sessions)
    zone = world.region[sessions["viewer"]].astype(np.int64)
    second = hashed(world.config.seed, 21, sessions["viewer"], zone) % np.uint64(REGIONS)
    locale = np.where(random.random(count) < OWN_LANGUAGE, zone, second.astype(np.int64))
    hours, _ = hours_and_weekdays(seconds, zone, ZONES)
    part = (hours - 1) * PARTS // 24
    sessions["time_zone"], sessions["locale"] = zone, locale
    sessions["device"] = (random.random(count)[:, None] >= _DEVICE_SHARES[part]).sum(1)
    usual = _usual_topics(world, locale, part, random.random(count))
    return np.where(random.random(count) < BY_CONTEXT, usual, topics)


def _usual_topics(
    world: World, locale: Int64Array, part: Int64Array, draws: npt.NDArray[np.float64]
) -> Int64Array:
    """Return a topic of the language's region and the part of the day for each draw, int64[m]."""
    every = np.arange(len(world.starts) - 1)
    chosen = np.zeros(len(draws), np.int64)
    for region in range(REGIONS):
        of_region = every[every % REGIONS == region]
        for time in range(PARTS):
            here = (locale == region) & (part == time)
            usual = of_region[of_region // REGIONS % PARTS == time]
            usual = usual if len(usual) else of_region  # a small world has few topics
            # The first topics draw the most interest.
            chosen[here] = usual[(draws[here] ** 2 * len(usual)).astype(np.int64)]
    return chosen


def _step(
    world: World,
    sessions: Events,
    topics: Int64Array,
    before: Int64Array,
    now: npt.NDArray[np.float64],
    random: np.random.Generator,
    choices: np.random.Generator,
) -> tuple[Events, npt.NDArray[np.float64]]:
    """Return the next event of some sessions, and the time of the one after it.

    `choices` draws what depends on the context, and repeats.
    """
    count, seconds = len(sessions), now.astype(np.int64)
    strays = random.random(count) < STRAY
    everyones = np.full(count, REGIONS, np.int64)
    wanted = np.where(strays, world.drawn_topics(everyones, random.random(count)), topics)
    videos = world.drawn_videos(wanted, seconds, random)
    if world.config.context:  # The longer of two on a TV, else the shorter one.
        others = world.drawn_videos(wanted, seconds, choices)
        longer = world.duration[videos] >= world.duration[others]
        videos = np.where(longer == (sessions["device"] == DEVICES.index("tv")), videos, others)
    episodes = np.where(
        before >= 0, world.next_episodes(np.maximum(before, 0), seconds), np.int64(-1)
    )
    follow = (episodes >= 0) & (random.random(count) < NEXT_EPISODE)
    videos = np.where(follow, episodes, videos)
    if world.config.repeats:
        which = choices.integers(0, FAVOURITES, count)
        own = world.favourites(sessions["viewer"], topics, which)
        again = (choices.random(count) < world.config.repeats) & (world.published[own] <= seconds)
        videos = np.where(again, own, videos)
    liking = np.where(strays & ~follow, 0.35, 0.7)
    fraction = np.clip(random.normal(liking, 0.25, count), 0.02, 1.0).astype(np.float32)
    draw = random.random(count)
    hidden = (draw > 0.99) & (fraction < 0.5)
    events = sessions.copy()
    events["video"], events["time"] = videos, now * 1e6
    events["kind"] = np.where(hidden, HIDE, np.where((draw < 0.05) & (fraction > 0.5), LIKE, PLAY))
    events["fraction"] = np.where(hidden, np.float32(0), fraction)
    return events, now + 5 + world.duration[videos] * events["fraction"]
