"""Every signal of the recommender, declared once: candidate sources, scores and ranking tasks.

Pipelines, checks, the inner hops, manifests, training, evaluation and benchmarks iterate over these
tables, and a release's manifest pins their names. `docs/extending.md` adds a row to each. The other
features of the ranking model are declared in `vireo.server.features.model_inputs`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vireo.server.arrays import Float32Array

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Source:
    """Proposes candidates, by its name in `vireo.server.recommend.retrieval.sources`."""

    name: str
    number: int
    """Number in the API's enum `Source`, and bit of the masks; never given to another source."""
    quota: float | None
    """Share of the candidates kept for its best unless training fits another to validation; None
    fills what the quotas leave."""
    meaning: str

    @property
    def bit(self) -> int:
        """Mask with this source's bit alone."""
        return 1 << self.number


@dataclass(frozen=True)
class Column:
    """A float32 for each candidate, which the inner hops carry under its name."""

    name: str
    meaning: str
    low: float = -_LARGEST
    """Least value; every value is finite."""
    high: float = _LARGEST
    neutral: float = 0.0
    """Value of candidates that it says nothing of, and of all if it is absent or failed."""

    def admits(self, values: Float32Array) -> bool:
        """Return whether all values, float32[n], are numbers within the bounds."""
        # NaN passes through min, and compares false.
        return not len(values) or bool(
            self.low <= np.minimum.reduce(values) and np.maximum.reduce(values) <= self.high
        )


@dataclass(frozen=True)
class Task(Column):
    """Probability that the ranking model predicts; a field of the API's `TaskScores`."""

    low: float = 0.0
    high: float = 1.0 + 1e-5
    """Rounding may exceed 1."""
    weight: float = 0.0
    """Default exponent of the probability in the score that orders a slate; a profile's `[ranking]`
    sets another, and a release's manifest states it."""
    outcome: str = ""
    """Column of the ranker's labels; empty for the watch itself."""
    optional: bool = False
    """Whether a release may lack it, as one whose data has no labels of it does."""
    unwanted: bool = False
    """Whether the score falls with the probability p: its factor is then (1 - p) ** weight."""


SOURCES = (
    Source("two_tower", 1, None, "the nearest videos to the viewer's vector"),
    Source(
        "co_watch", 2, 0.2, "what viewers watched soon after the last few videos of this history"
    ),
    Source("ease", 4, 0.3, "what EASE, an item-to-item model, expects of all that was watched"),
    Source("popular", 3, 0.05, "what is watched most of late"),
    Source("fresh", 5, 0.02, "new and hardly watched videos, by two-tower score"),
)
"""In the order in which they run, those of KEPT first; quotas are filled in the same order."""

TRENDING = Source("trending", 6, 0.05, "what is played more than other videos right now")
NEW = Source("new", 7, 0.05, "videos that came since the release was trained, by two-tower score")
FOLLOWED = Source("followed", 8, 0.05, "videos of followed creators, by two-tower score")
LIVE_SOURCES = (TRENDING, NEW, FOLLOWED)
"""Sources that read the log. They are on wherever there is one: no manifest states their quotas,
and the ranking model doesn't read which of them proposed a candidate."""
EVERY_SOURCE = (*SOURCES, *LIVE_SOURCES)

KEPT = frozenset({"fresh"})
"""Sources that always have their default quota, however full the others and the log's are: held-out
watches are of videos that others have found, so nothing can be fitted to them."""

COLD_SHARE = 0.5
"""TRENDING's share of the candidates, and of the positions of the page, for viewers without a
history."""

SCORES = (
    Column("two_tower", "viewer vector · video vector"),
    Column("co_watch", "co-watch weights from the recent history, decayed by steps back", low=0.0),
    Column(
        "ease", "EASE weights of all that was watched, of the last few more; negative: against it"
    ),
)
"""Inputs of the ranking model, in its order: each is computed by its name's function in
`vireo.server.recommend.retrieval.sources`, and a source of the same name reports its failures."""

TASKS = (
    Task("watch", "that the viewer will watch the video", weight=1.0),
    Task(
        "like",
        "that the viewer will like the video, given that it is watched",
        weight=0.0,
        outcome="liked",
    ),
    Task(
        "finish",
        "that the viewer will watch the video to its end, given that it is watched",
        weight=0.0,
        outcome="finished",
        optional=True,
    ),
    Task(
        "hide",
        "that the viewer will hide the video, given that it is watched or hidden",
        weight=0.0,
        outcome="hidden",
        optional=True,
        unwanted=True,
    ),
)
"""In the order of the ranking model's outputs: `watch`, then OUTCOMES."""

OUTCOMES = TASKS[1:]
"""Tasks of what follows a watch, and of hides, which may come without one."""

UNWANTED = frozenset(task.name for task in TASKS if task.unwanted)

ORDERING = "two_tower"
"""Score by which candidates come best first, ranked or not."""
