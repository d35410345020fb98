"""A world whose viewers see positions, tire of what they were shown, and change their minds.

Who plays what depends on taste, on how far down the page a video is, and on how often its viewer
passed it over before. Chance is drawn from (seed, viewer, video, day), so that two systems that
show the same video in the same place get the same answer.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit

from vireo.server.arrays import Float64Array, Int64Array
from vireo.training.data.synth.world import hashed, unit
from vireo.v1.catalog_pb2 import Video

_DAY = 86_400
_DIMENSIONS, _TOPICS, _STYLES, _CREATORS = 8, 12, 6, 60
_LEVEL, _TASTE = -3.0, 4.0
"""The logit of a play is _LEVEL + _TASTE cos(viewer, video) + quality, at the top of a page."""
_FADING = 0.9
"""What is left of an earlier impression after a day."""


@dataclass(frozen=True)
class WorldSettings:
    """How a world's viewers are."""

    viewers: int = 800
    videos: int = 600
    """Videos at first."""
    new_videos: int = 15
    """Videos that are published each day."""
    past_days: int = 40
    """Days before the first one, over which the first videos were published and watched."""
    found: float = 1.0
    """Mean watches of a viewer a day that no page led to: by popularity, search or friends."""
    bias: float = 0.5
    """A video at position p is looked at with probability p to the power of minus this."""
    tiring: float = 0.6
    """Factor of the probability of a play for each time that the video was passed over."""
    drift: float = 0.03
    """Radians, at most, by which a viewer's taste turns towards another one each day."""


BIASED = WorldSettings()
"""The world in which learning from what was shown has to gain."""
NEUTRAL = WorldSettings(bias=0.0, tiring=1.0, drift=0.0)
"""The world in which it must not lose."""


class SimulatedWorld:
    """Viewers "v0", "v1" and so on, videos "w0", "w1" and so on, and who plays what."""

    def __init__(self, settings: WorldSettings, seed: int, days: int) -> None:
        """Draw the world, with the videos of some days to come."""
        self.settings, self.seed = settings, seed
        random = np.random.default_rng([seed, 1])
        count = settings.videos + days * settings.new_videos
        topics = _directions(random, _TOPICS)
        styles = _directions(random, _STYLES)
        self._topic = random.integers(0, _TOPICS, count)
        self._style = random.integers(0, _STYLES, count)
        own = _directions(random, count)
        self._videos = _unit(topics[self._topic] + 0.5 * styles[self._style] + 0.5 * own)
        self._quality = random.normal(0, 0.5, count)
        self._popularity = random.lognormal(0.0, 0.7, count)
        # Some have been there all along; the others came as evenly as further ones will.
        first = np.sort(random.uniform(-1.5 * settings.past_days, 0.0, settings.videos))
        self._published = np.concatenate([first, np.zeros(count - len(first))])
        self._creator = self._topic + _TOPICS * random.integers(0, _CREATORS // _TOPICS, count)
        self._tastes = [
            _unit(topics[random.integers(0, _TOPICS, settings.viewers)] + 0.7 * each)
            for each in (
                _directions(random, settings.viewers),
                _directions(random, settings.viewers),
            )
        ]
        self._passed_over: dict[tuple[int, int], tuple[int, float]] = {}
        """Last day on which a viewer passed a video over, and how often it was by then."""

    @property
    def viewer_ids(self) -> list[str]:
        """All viewers."""
        return [f"v{number}" for number in range(self.settings.viewers)]

    def published(self, day: int) -> list[Video]:
        """Return the videos that come on a day; those until day 0 are there from the beginning."""
        last = self._count(day)
        return [
            self._video(number) for number in range(0 if day == 0 else self._count(day - 1), last)
        ]

    def _count(self, day: int) -> int:
        return self.settings.videos + day * self.settings.new_videos

    def _video(self, number: int) -> Video:
        made = Video(
            video_id=f"w{number}",
            title=f"w{number}",
            tags=[f"topic-{self._topic[number]}", f"style-{self._style[number]}"],
            creator=f"c{self._creator[number]}",
            duration=300.0,
        )
        made.published.FromSeconds(int(time.time() + _DAY * self._published[number]))
        return made

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write the videos of day 0 and what was watched before as files to import."""
        videos, interactions = folder / "videos.csv", folder / "interactions.csv"
        with videos.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("video_id", "title", "tags", "published", "duration", "creator"))
            for each in self.published(0):
                published, tags = each.published.ToJsonString(), "|".join(each.tags)
                rows.writerow(
                    (each.video_id, each.title, tags, published, each.duration, each.creator)
                )
        with interactions.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("viewer_id", "video_id", "timestamp", "watched_fraction"))
            for day in range(-self.settings.past_days, 0):
                at = int(time.time()) + _DAY * day
                for place, viewer in enumerate(self.viewer_ids):
                    for video in self.found(viewer, day):
                        rows.writerow((viewer, video, at + place, 0.9))
        return videos, interactions

    def found(self, viewer_id: str, day: int) -> list[str]:
        """Return what a viewer finds on a day and plays without any page.

        It may be a video that the site publishes the day after.
        """
        viewer = int(viewer_id[1:])
        random = np.random.default_rng([self.seed, 2, viewer, day + self.settings.past_days])
        there = np.flatnonzero(self._published[: self._count(max(day, 0))] <= day)
        weights = self._popularity[there] * self._relevance(viewer, there, day)
        wanted = random.poisson(self.settings.found)
        chosen = random.choice(there, wanted, replace=False, p=weights / weights.sum())
        return [f"w{number}" for number in chosen]

    def _relevance(self, viewer: int, videos: Int64Array, day: float) -> Float64Array:
        """Return the probability that a viewer plays each video at the top of a first page."""
        angle = self.settings.drift * day
        now, later = (taste[viewer] for taste in self._tastes)
        taste = _unit((np.cos(angle) * now + np.sin(angle) * later)[None])[0]
        logits = _LEVEL + _TASTE * self._videos[videos] @ taste + self._quality[videos]
        return np.asarray(expit(logits), np.float64)

    def plays(self, viewer_id: str, page: Sequence[str], day: int) -> list[bool]:
        """Return which videos of a page its viewer plays; the others count as passed over."""
        viewer, videos = int(viewer_id[1:]), np.array([int(each[1:]) for each in page])
        before = np.array([self._times_before(viewer, video, day) for video in videos.tolist()])
        looked_at = np.arange(1.0, len(page) + 1) ** -self.settings.bias
        chance = looked_at * self._relevance(viewer, videos, day)
        chance *= self.settings.tiring**before
        draws = unit(hashed(self.seed, 100 + day, np.full(len(page), viewer), videos))
        played = draws < chance
        for video, times in zip(videos[~played].tolist(), before[~played], strict=True):
            self._passed_over[viewer, video] = day, float(times) + 1
        return [bool(each) for each in played]

    def _times_before(self, viewer: int, video: int, day: int) -> float:
        last, times = self._passed_over.get((viewer, video), (day, 0.0))
        return float(times * _FADING ** (day - last))


def _unit(vectors: Float64Array) -> Float64Array:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float64)


def _directions(random: np.random.Generator, count: int) -> Float64Array:
    """Return random unit vectors, float64[count, _DIMENSIONS]."""
    return _unit(random.normal(size=(count, _DIMENSIONS)))
