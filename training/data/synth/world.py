"""What a made-up world consists of: videos in topics, and viewers with tastes that drift.

Everything is drawn from (seed, what it is for), so that a world is the same however much of it is
looked at. Popularity has a long tail twice over: few topics draw most of the interest, and within
each topic a video's share falls with its rank (Zipf-Mandelbrot).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from server.errors import VireoError

Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
UInt64Array = npt.NDArray[np.uint64]

START = 1_704_067_200
"""Unix seconds of the first day, 2024-01-01."""
DAY = 86_400
REGIONS = 5
"""Each topic is of one region, and so is most of what a viewer watches."""
TASTES = 4
"""How many topics a viewer likes at a time."""
TASTE_SHARES = np.array([0.5, 0.25, 0.15, 0.1])
"""Of a viewer's sessions, what each taste has."""
TASTE_DAYS = (60, 45, 30, 20)
"""After so many days each taste becomes another topic."""
HOME_SHARE = 0.8
"""Of a viewer's tastes, those of the own region."""
SERIES = 8
"""Episodes of a series: neighbours by rank in a topic."""
HEAD = 8.0
"""Of Zipf-Mandelbrot: the larger, the less the first few ranks stand out."""
OLD_DAYS = 730
"""Over how many days before the start the first half of the series came out."""
VIDEOS_PER_TOPIC = 250
MOST_TOPICS = 4_000
FEWEST_VIDEOS, FEWEST_VIEWERS, FEWEST_EVENTS = 20, 5, 50


@dataclass(frozen=True)
class WorldConfig:
    """How large a world is, and which."""

    viewers: int
    videos: int
    events: int
    seed: int = 0
    days: int = 90
    """Over how many days the events are spread."""

    def check(self) -> None:
        """Raises VireoError where there would be too little to train on, or a bound is passed."""
        for name, least in (
            ("videos", FEWEST_VIDEOS),
            ("viewers", FEWEST_VIEWERS),
            ("events", FEWEST_EVENTS),
            ("days", 1),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if not least <= value < 2**31:
                raise VireoError(f"{name} is {value}: choose one from {least} to {2**31 - 1}")

    def random(self, *purpose: int) -> np.random.Generator:
        """A generator of its own for one purpose."""
        return np.random.default_rng([self.seed, *purpose])


@dataclass(frozen=True)
class World:
    """The videos and viewers of a world, some 40 bytes for each."""

    config: WorldConfig
    topic: Int32Array
    """Of each video, int32[n]."""
    rank: Int32Array
    """Place of each video by popularity in its topic, from 0, int32[n]."""
    published: Int64Array
    """Unix seconds, int64[n]."""
    duration: Float32Array
    """Seconds, float32[n]."""
    members: Int32Array
    """Videos by topic, then rank: topic t's are `members[starts[t]:starts[t + 1]]`, int32[n]."""
    starts: Int64Array
    """int64[topics + 1]."""
    topic_draws: Float64Array
    """Cumulated interest in topics by region, REGIONS last being all together:
    float64[REGIONS + 1, topics]."""
    region: Int32Array
    """Of each viewer, int32[v]."""
    activity: Float64Array
    """Cumulated shares of the sessions, float64[v]."""

    @staticmethod
    def of(config: WorldConfig) -> World:
        """The world; raises VireoError where `config` is unfit."""
        config.check()
        topics = int(np.clip(config.videos // VIDEOS_PER_TOPIC, REGIONS, MOST_TOPICS))
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
        """The topic of a viewer's taste at a time (Unix seconds), all int64[m]."""
        phase = hashed(self.config.seed, 5, viewers, slots)
        length = np.asarray(TASTE_DAYS, np.int64)[slots] * DAY
        epoch = (times - START + (phase % length.astype(np.uint64)).astype(np.int64)) // length
        draw = hashed(self.config.seed, 6, viewers, slots * 1_000_003 + epoch)
        at_home = unit(hashed(self.config.seed, 7, viewers, draw.view(np.int64))) < HOME_SHARE
        table = np.where(at_home, self.region[viewers], REGIONS)
        return self.drawn_topics(table.astype(np.int64), unit(draw))

    def drawn_topics(self, tables: Int64Array, shares: Float64Array) -> Int64Array:
        """Topics by interest, int64[m]: of a region's table, or REGIONS for that of all.

        Args:
            tables: int64[m].
            shares: from 0 to below 1, float64[m].
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
        """A video of each topic that is out by then, the popular ones more often, int64[m]."""
        sizes = np.diff(self.starts)[topics]
        spread = np.log((sizes + HEAD) / HEAD)
        videos = np.empty(len(topics), np.int64)
        left: Int64Array = np.arange(len(topics))
        for _ in range(_TRIES):
            drawn = HEAD * np.exp(random.random(len(left)) * spread[left]) - HEAD
            ranks = np.minimum(drawn.astype(np.int64), sizes[left] - 1)
            videos[left] = self.members[self.starts[topics[left]] + ranks]
            left = left[self.published[videos[left]] > times[left]]
            if not len(left):
                return videos
        # The first series of each topic came out before everything else.
        ranks = random.integers(0, np.minimum(SERIES, sizes[left]))
        videos[left] = self.members[self.starts[topics[left]] + ranks]
        return videos

    def next_episodes(self, videos: Int64Array, times: Int64Array) -> Int64Array:
        """The next of each video's series, -1 where none is or it isn't out, int64[m]."""
        topics = self.topic[videos]
        following = self.rank[videos].astype(np.int64) + 1
        place = np.minimum(self.starts[topics] + following, self.starts[topics + 1] - 1)
        episodes = self.members[place].astype(np.int64)
        there = (following % SERIES != 0) & (self.starts[topics] + following == place)
        return np.where(there & (self.published[episodes] <= times), episodes, -1)


_TRIES = 6
_REGION_SHARES = np.array([0.4, 0.25, 0.15, 0.12, 0.08])


def hashed(seed: int, purpose: int, one: Int64Array, other: Int64Array) -> UInt64Array:
    """A number for each pair that looks random, uint64[m] (splitmix64's finaliser)."""
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
    """Each as a share from 0 to below 1, float64[m]."""
    return np.asarray((numbers >> np.uint64(11)).astype(np.float64) * 2.0**-53, np.float64)


def _catalogue(
    config: WorldConfig, interest: Float64Array
) -> tuple[Int32Array, Int32Array, Int32Array, Int64Array]:
    """Topic and rank of each video, and the videos by topic and rank."""
    random = config.random(1)
    # Sizes differ less than the interest does: what is popular is crowded.
    sizes = np.sqrt(interest)
    shares = np.cumsum(sizes / sizes.sum())
    # Every topic has a video: the first so many videos are spread over all.
    topic = np.searchsorted(shares, random.random(config.videos), side="right")
    topic = np.minimum(topic, len(interest) - 1)
    topic[: len(interest)] = np.arange(len(interest))
    members = np.lexsort((random.random(config.videos), topic))
    starts = np.concatenate([[0], np.cumsum(np.bincount(topic, minlength=len(interest)))])
    rank = np.empty(config.videos, np.int32)
    rank[members] = np.arange(config.videos) - np.repeat(starts[:-1], np.diff(starts))
    return topic.astype(np.int32), rank, members.astype(np.int32), starts.astype(np.int64)


def _published(config: WorldConfig, topic: Int32Array, rank: Int32Array) -> Int64Array:
    """When each video came out: half of the series before the start, one episode a day."""
    series = rank.astype(np.int64) // SERIES
    draw = unit(hashed(config.seed, 2, topic.astype(np.int64), series))
    old = START - OLD_DAYS * DAY + (2 * draw * (OLD_DAYS - SERIES) * DAY).astype(np.int64)
    new = START + ((2 * draw - 1) * config.days * DAY).astype(np.int64)
    base = np.where(draw < 0.5, old, new)
    base = np.where(series == 0, START - OLD_DAYS * DAY, base)
    return np.asarray(base + rank % SERIES * DAY, np.int64)
