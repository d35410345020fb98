"""Context of a synthetic world's sessions, and the tastes that follow it.

Viewers live in the zone of their region, and speak its language and another one. A part of their
sessions is about what people watch at that hour in the language of the session, whatever their own
tastes; on a TV they choose longer videos than on a phone. Everything has random numbers of its own,
so that a world without context stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vireo.server.features.context import DEVICES
from vireo.training.data.context import hours_and_weekdays
from vireo.training.data.synth.world import REGIONS, World, hashed

Int64Array = npt.NDArray[np.int64]
Int8Array = npt.NDArray[np.int8]

ZONES = (
    "Europe/Zurich",
    "America/Sao_Paulo",
    "Asia/Kolkata",
    "Asia/Tokyo",
    "Africa/Lagos",
)
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
    [
        [0.75, 0.10, 0.05],
        [0.55, 0.15, 0.05],
        [0.40, 0.15, 0.15],
        [0.25, 0.15, 0.50],
    ],
    axis=1,
)
"""Cumulative shares of the first DEVICES by part of the day; the rest is the last one's."""


@dataclass(frozen=True)
class SessionContext:
    """Context of m sessions; -1 everywhere in a world without context."""

    zone: Int8Array
    """Index in ZONES, int8[m]."""
    locale: Int8Array
    """Index in LOCALES, int8[m]."""
    device: Int8Array
    """Index in DEVICES, int8[m]."""

    @staticmethod
    def none(count: int) -> SessionContext:
        """Return the context of sessions of which none is logged."""
        nothing = np.full(count, -1, np.int8)
        return SessionContext(nothing, nothing, nothing)


def sessions_in_context(
    world: World, block: int, viewers: Int64Array, topics: Int64Array, seconds: Int64Array
) -> tuple[Int64Array, SessionContext]:
    """Return the topics that sessions have in their context, int64[m], and that context.

    Args:
        world: the world.
        block: number of the block of sessions.
        viewers: viewer of each session, int64[m].
        topics: topic of each by the viewer's own taste, int64[m].
        seconds: when each begins, Unix seconds, int64[m].
    """
    if not world.config.context:
        return topics, SessionContext.none(len(viewers))
    random, count = world.config.random(20, block), len(viewers)
    zone = world.region[viewers].astype(np.int64)
    second = hashed(world.config.seed, 21, viewers, zone) % np.uint64(REGIONS)
    locale = np.where(random.random(count) < OWN_LANGUAGE, zone, second.astype(np.int64))
    hours, _ = hours_and_weekdays(seconds, zone, ZONES)
    part = (hours - 1) * PARTS // 24
    device = (random.random(count)[:, None] >= _DEVICE_SHARES[part]).sum(1)
    usual = _usual_topics(world, locale, part, random.random(count))
    topics = np.where(random.random(count) < BY_CONTEXT, usual, topics)
    return topics, SessionContext(*(each.astype(np.int8) for each in (zone, locale, device)))


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


def fitting(
    context: SessionContext, durations: npt.NDArray[np.float32], one: Int64Array, other: Int64Array
) -> Int64Array:
    """Return which of two videos each session plays: the longer one on a TV, else the shorter one.

    Args:
        context: that of m sessions.
        durations: of each video, float32[n].
        one: rows of videos, int64[m].
        other: rows of videos, int64[m].
    """
    long = context.device == DEVICES.index("tv")
    longer = durations[one] >= durations[other]
    return np.where(longer == long, one, other)
