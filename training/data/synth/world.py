"""A synthetic world: videos in topics, and viewers with drifting tastes.

Everything is drawn from (seed, purpose), so that a world doesn't depend on which part of it is
computed. Popularity is long-tailed at two levels: few topics draw most of the interest, and within
each topic a video's share falls with its rank (Zipf-Mandelbrot).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vireo.server.arrays import Float32Array, Float64Array, Int32Array, Int64Array
from vireo.server.errors import VireoError

UInt64Array = npt.NDArray[np.uint64]

START = 1_704_067_200
"""Unix seconds of the first day, 2024-01-01."""
DAY = 86_400
REGIONS = 5
"""Each topic belongs to one region, and so do most of a viewer's watches."""
TASTE_SHARES = np.array([0.5, 0.25, 0.15, 0.1])
"""Each taste's share of a viewer's sessions; a taste is a topic that the viewer likes."""
TASTE_DAYS = (60, 45, 30, 20)
"""Days after which each taste changes to another topic."""
FAVOURITES = 4
"""Videos of a topic that a viewer comes back to."""
HOME_SHARE = 0.8
"""Share of a viewer's tastes that lie in the viewer's region."""
SERIES = 8
"""Episodes per series; they are neighbours by rank in a topic."""
HEAD = 8.0
"""Zipf-Mandelbrot offset: larger values flatten the first ranks."""
OLD_DAYS = 730
"""Days before START over which the first half of the series was published."""
VIDEOS_PER_TOPIC = 250
MAX_TOPICS = 4_000
MIN_VIDEOS, MIN_VIEWERS, MIN_EVENTS = 20, 5, 50

_TRIES = 6
_REGION_SHARES = np.array([0.4, 0.25, 0.15, 0.12, 0.08])


@dataclass(frozen=True)
class WorldConfig:
    """Size and seed of a world."""

    viewers: int
    videos: int
    events: int
    seed: int = 0
    days: int = 90
    """Number of days that the events span."""
    context: bool = False
    """Whether events have a device, a time zone and a locale, which a part of them follows."""
    drift: float = 1.0
    """How many times as fast as after TASTE_DAYS tastes change; 0 for never."""
    repeats: float = 0.0
    """Share of events of one of the viewer's FAVOURITES in the session's topic, if it is out."""

    def check(self) -> None:
        """Raise VireoError if a value is out of bounds or leaves too little to train on."""
        for name, minimum in (
            ("videos", MIN_VIDEOS),
            ("viewers", MIN_VIEWERS),
            ("events", MIN_EVENTS),
            ("days", 1),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if not minimum <= value < 2**31:
                raise VireoError(f"{name} is {value}: choose one from {minimum} to {2**31 - 1}")
        for name, share, maximum in (("drift", self.drift, 20), ("repeats", self.repeats, 1)):
            if not 0 <= share <= maximum:
                raise VireoError(f"{name} is {share}: choose one from 0 to {maximum}")

    def random(self, *purpose: int) -> np.random.Generator:
        """Return an independent random generator for one purpose."""
        return np.random.default_rng([self.seed, *purpose])


@dataclass(frozen=True)
class World:
    """The videos and viewers of a world, some 40 bytes each."""

    config: WorldConfig
    topic: Int32Array
    """Topic of each video, int32[n]."""
    rank: Int32Array
    """Popularity rank of each video in its topic, from 0, int32[n]."""
    published: Int64Array
    """Publication time of each video, Unix seconds, int64[n]."""
    duration: Float32Array
    """Duration of each video, seconds, float32[n]."""
    members: Int32Array
    """Videos by topic, then rank: topic t has `members[starts[t]:starts[t + 1]]`, int32[n]."""
    starts: Int64Array
    """int64[topics + 1]."""
    topic_draws: Float64Array
    """Cumulative interest in topics by region, float64[REGIONS + 1, topics]; the last row covers
    all regions."""
    region: Int32Array
    """Region of each viewer, int32[v]."""
    activity: Float64Array
    """Cumulative share of the sessions by viewer, float64[v]."""

    @staticmethod
    def of(config: WorldConfig) -> World:
        """Draw the world; raise VireoError if `config` is invalid."""
        config.check()
        topics = int(np.clip(config.videos // VIDEOS_PER_TOPIC, REGIONS, MAX_TOPICS))
        interest = 1 / (np.arange(topics) + 3.0)
        topic, rank, members, starts = _catalogue(config, interest)
        published = _published(config, topic, rank)
        minutes = config.random(3).lognormal(1.8, 0.8, config.videos)
        by_region = np.stack(
            [
                *(interest * (np.arange(topics) % REGIONS == region) for region in range(REGIONS)),
                interest,
            ]
        )
        draws = np.cumsum(by_region, axis=1)
        viewers = config.random(4)
        activity = np.cumsum(viewers.lognormal(0.0, 1.0, config.viewers))
        return World(
            config=config,
            topic=topic,
            rank=rank,
            published=published,
            duration=np.clip(60 * minutes, 30, 14_400).astype(np.float32),
            members=members,
            starts=starts,
            topic_draws=draws / draws[:, -1:],
            region=viewers.choice(REGIONS, config.viewers, p=_REGION_SHARES).astype(np.int32),
            activity=activity / activity[-1],
        )

    def taste(self, viewers: Int64Array, slots: Int64Array, times: Int64Array) -> Int64Array:
        """Return the topics of viewers' tastes at given times (Unix seconds), all int64[m]."""
        phase = hashed(self.config.seed, 5, viewers, slots)
        days = np.asarray(TASTE_DAYS, np.float64) / max(self.config.drift, 1e-6)
        length = (days * DAY).astype(np.int64)[slots]
        epoch = (times - START + (phase % length.astype(np.uint64)).astype(np.int64)) // length
        draw = hashed(self.config.seed, 6, viewers, slots * 1_000_003 + epoch)
        at_home = unit(hashed(self.config.seed, 7, viewers, draw.view(np.int64))) < HOME_SHARE
        table = np.where(at_home, self.region[viewers], REGIONS)
        return self.drawn_topics(table.astype(np.int64), unit(draw))

    def drawn_topics(self, tables: Int64Array, shares: Float64Array) -> Int64Array:
        """Return topics drawn by interest, int64[m].

        Args:
            tables: regions to draw from, or REGIONS for all of them, int64[m].
            shares: quantiles in [0, 1), float64[m].
        """
        topics = np.zeros(len(tables), np.int64)
        for table in range(REGIONS + 1):
            own = tables == table
            topics[own] = np.searchsorted(self.topic_draws[table], shares[own], side="right")
        last: int = self.topic_draws.shape[1] - 1
        return np.asarray(np.minimum(topics, last), np.int64)

    def drawn_videos(
        self, topics: Int64Array, times: Int64Array, random: np.random.Generator
    ) -> Int64Array:
        """Draw a video published by then from each topic, by popularity, int64[m]."""
        videos = np.empty(len(topics), np.int64)
        left: Int64Array = np.arange(len(topics))
        for _ in range(_TRIES):
            videos[left] = self._by_popularity(topics[left], random.random(len(left)))
            left = left[self.published[videos[left]] > times[left]]
            if not len(left):
                return videos
        # The first series of each topic was published before everything else.
        ranks = random.integers(0, np.minimum(SERIES, np.diff(self.starts)[topics[left]]))
        videos[left] = self.members[self.starts[topics[left]] + ranks]
        return videos

    def favourites(self, viewers: Int64Array, topics: Int64Array, which: Int64Array) -> Int64Array:
        """Return a video of each topic that each viewer comes back to, int64[m].

        `which` is the number of the favourite, below FAVOURITES, int64[m].
        """
        draw = hashed(self.config.seed, 10, viewers, topics * FAVOURITES + which)
        return self._by_popularity(topics, unit(draw))

    def _by_popularity(self, topics: Int64Array, shares: Float64Array) -> Int64Array:
        """Return the video of each topic at a quantile in [0, 1) of its popularity, int64[m]."""
        sizes = np.diff(self.starts)[topics]
        ranks = HEAD * np.exp(shares * np.log((sizes + HEAD) / HEAD)) - HEAD
        places = self.starts[topics] + np.minimum(ranks.astype(np.int64), sizes - 1)
        return np.asarray(self.members[places], np.int64)

    def next_episodes(self, videos: Int64Array, times: Int64Array) -> Int64Array:
        """Return each video's next episode, int64[m]; -1 if there is none or it isn't out."""
        topics = self.topic[videos]
        following = self.rank[videos].astype(np.int64) + 1
        place = np.minimum(self.starts[topics] + following, self.starts[topics + 1] - 1)
        episodes = self.members[place].astype(np.int64)
        there = (following % SERIES != 0) & (self.starts[topics] + following == place)
        return np.where(there & (self.published[episodes] <= times), episodes, -1)


def hashed(seed: int, purpose: int, one: Int64Array, other: Int64Array) -> UInt64Array:
    """Return a pseudorandom number for each pair, uint64[m] (splitmix64's finaliser)."""
    with np.errstate(over="ignore"):
        start = np.array([seed * 1_000_003 + purpose], np.uint64)
        mixed: UInt64Array = start * np.uint64(0x9E3779B97F4A7C15)
        for values in (one, other):
            mixed = mixed ^ values.astype(np.int64).view(np.uint64)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed = mixed ^ (mixed >> np.uint64(31))
    return np.asarray(mixed, np.uint64)


def unit(numbers: UInt64Array) -> Float64Array:
    """Return each number scaled to [0, 1), float64[m]."""
    return np.asarray((numbers >> np.uint64(11)).astype(np.float64) * 2.0**-53, np.float64)


def _catalogue(
    config: WorldConfig, interest: Float64Array
) -> tuple[Int32Array, Int32Array, Int32Array, Int64Array]:
    """Return each video's topic and rank, the videos by topic and rank, and the topics' starts."""
    random = config.random(1)
    # Sizes vary less than interest: popular topics have more interest per video.
    sizes = np.sqrt(interest)
    shares = np.cumsum(sizes / sizes.sum())
    # The first videos are spread over all topics, so that none is empty.
    topic = np.searchsorted(shares, random.random(config.videos), side="right")
    topic = np.minimum(topic, len(interest) - 1)
    topic[: len(interest)] = np.arange(len(interest))
    members = np.lexsort((random.random(config.videos), topic))
    starts = np.concatenate([[0], np.cumsum(np.bincount(topic, minlength=len(interest)))])
    rank = np.empty(config.videos, np.int32)
    rank[members] = np.arange(config.videos) - np.repeat(starts[:-1], np.diff(starts))
    return topic.astype(np.int32), rank, members.astype(np.int32), starts.astype(np.int64)


def _published(config: WorldConfig, topic: Int32Array, rank: Int32Array) -> Int64Array:
    """Return publication times: half of the series before START, one episode a day."""
    series = rank.astype(np.int64) // SERIES
    draw = unit(hashed(config.seed, 2, topic.astype(np.int64), series))
    old = START - OLD_DAYS * DAY + (2 * draw * (OLD_DAYS - SERIES) * DAY).astype(np.int64)
    new = START + ((2 * draw - 1) * config.days * DAY).astype(np.int64)
    base = np.where(draw < 0.5, old, new)
    base = np.where(series == 0, START - OLD_DAYS * DAY, base)
    return np.asarray(base + rank % SERIES * DAY, np.int64)
