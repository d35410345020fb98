"""How a shadow's slates compare with those that viewers got."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from prometheus_client import Counter, Histogram

WINDOW = 1000
"""Number of latest comparisons in the summary."""
_TOP = 10
_PAIRS = 4
"""Maximum pairs of releases with separate counts: pods swap one by one."""

OUTCOMES = Counter(
    "vireo_shadow_requests",
    "Requests mirrored to the shadow pool, by outcome.",
    ["outcome"],
)
OVERLAP = Histogram(
    "vireo_shadow_overlap_ratio",
    "Share of the top ten that is in the shadow's top ten.",
    buckets=[tenth / 10 for tenth in range(11)],
)


@dataclass(frozen=True)
class Slate:
    """What one pool answered."""

    release_id: str
    """The release that it came from, candidates and ranking."""
    ids: tuple[str, ...]
    """Best first."""
    scores: tuple[float, ...]
    """That order it."""
    seconds: float
    """Retrieval and ranking together."""


@dataclass(frozen=True)
class Compared:
    """One request, both ways."""

    overlap: float
    """Share of the served ten best that are among the shadow's ten best."""
    score_shift: float
    """Mean score of the shadow's ten best less that of the served."""
    served_seconds: float
    shadow_seconds: float


@dataclass(frozen=True)
class Summary:
    """The latest WINDOW comparisons of two releases, and what became of all requests."""

    release_id: str
    """The release that the shadow answered from last; empty where it never did."""
    compared: int
    failed: int
    """The shadow gave no whole answer."""
    dropped: int
    """The queue was full."""
    overlap: float
    score_shift: float
    served_seconds: float
    """Median."""
    shadow_seconds: float
    """Median."""


def compare(served: Slate, shadow: Slate) -> Compared:
    """Compare two slates, of a video at least each.

    Raises:
        ValueError: a score is no number: one such would spoil the mean of a whole window.
    """
    if not np.isfinite([*served.scores[:_TOP], *shadow.scores[:_TOP]]).all():
        raise ValueError("a slate has a score that is no number")
    best = served.ids[:_TOP]
    common = set(best) & set(shadow.ids[:_TOP])
    return Compared(
        overlap=len(common) / len(best),
        score_shift=float(np.mean(shadow.scores[:_TOP]) - np.mean(served.scores[:_TOP])),
        served_seconds=served.seconds,
        shadow_seconds=shadow.seconds,
    )


@dataclass
class _Window:
    """What is known of one pair of releases."""

    latest: deque[Compared] = field(default_factory=lambda: deque(maxlen=WINDOW))
    count: int = 0
    failed: int = 0
    dropped: int = 0


class Comparisons:
    """Counts and the latest comparisons, by the releases that were served and repeated on.

    The summary is of the last compared pair.
    """

    def __init__(self) -> None:
        """Nothing has been compared yet."""
        self._shadow_id = ""
        self._window = _Window()
        # By the served and the shadow's release; the pair compared last is the last.
        self._windows: OrderedDict[tuple[str, str], _Window] = OrderedDict()

    def add(self, served: Slate, shadow: Slate) -> None:
        """Compares two slates for one request and takes up the outcome."""
        compared = compare(served, shadow)
        pair = served.release_id, shadow.release_id
        self._window = self._windows.setdefault(pair, _Window())
        self._windows.move_to_end(pair)
        if len(self._windows) > _PAIRS:
            self._windows.popitem(last=False)
        self._shadow_id = shadow.release_id
        self._window.latest.append(compared)
        self._window.count += 1
        OUTCOMES.labels("compared").inc()
        OVERLAP.observe(compared.overlap)

    def failed(self) -> None:
        """Counts a request that the shadow did not answer in full."""
        self._window.failed += 1
        OUTCOMES.labels("failed").inc()

    def dropped(self) -> None:
        """Counts a request for which there was no place in the queue."""
        self._window.dropped += 1
        OUTCOMES.labels("dropped").inc()

    def summary(self) -> Summary:
        """How it stands."""
        window = self._window

        def column(name: str) -> Sequence[float]:
            return [getattr(each, name) for each in window.latest] or [0.0]

        return Summary(
            release_id=self._shadow_id,
            compared=window.count,
            failed=window.failed,
            dropped=window.dropped,
            overlap=float(np.mean(column("overlap"))),
            score_shift=float(np.mean(column("score_shift"))),
            served_seconds=float(np.median(column("served_seconds"))),
            shadow_seconds=float(np.median(column("shadow_seconds"))),
        )
