"""How a shadow's slates compare with those that viewers got."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from prometheus_client import Counter, Histogram

WINDOW = 1000
"""So many of the latest comparisons are summed up."""
_TOP = 10

OUTCOMES = Counter(
    "vireo_shadow_requests",
    "Requests repeated on the shadow pool, by what became of them.",
    ["outcome"],
)
OVERLAP = Histogram(
    "vireo_shadow_overlap_ratio",
    "Share of the ten best that the shadow has among its own.",
    buckets=[tenth / 10 for tenth in range(11)],
)


@dataclass(frozen=True)
class Slate:
    """What one pool answered."""

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
    """The latest WINDOW comparisons, and what became of all requests."""

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
    """Holds one slate against the other; both must have a video at least."""
    best = served.ids[:_TOP]
    common = set(best) & set(shadow.ids[:_TOP])
    return Compared(
        overlap=len(common) / len(best),
        score_shift=float(np.mean(shadow.scores[:_TOP]) - np.mean(served.scores[:_TOP])),
        served_seconds=served.seconds,
        shadow_seconds=shadow.seconds,
    )


class Comparisons:
    """Counts and the latest comparisons; starts afresh whenever the shadow's release changes."""

    def __init__(self) -> None:
        """Nothing has been compared yet."""
        self._start_with("")

    def _start_with(self, release_id: str) -> None:
        self._release_id = release_id
        self._compared: deque[Compared] = deque(maxlen=WINDOW)
        self._count = self._failed = self._dropped = 0

    def add(self, release_id: str, compared: Compared) -> None:
        """Takes up a comparison with a shadow's release."""
        if release_id != self._release_id:
            self._start_with(release_id)
        self._compared.append(compared)
        self._count += 1
        OUTCOMES.labels("compared").inc()
        OVERLAP.observe(compared.overlap)

    def failed(self) -> None:
        """Counts a request that the shadow did not answer in full."""
        self._failed += 1
        OUTCOMES.labels("failed").inc()

    def dropped(self) -> None:
        """Counts a request for which there was no place in the queue."""
        self._dropped += 1
        OUTCOMES.labels("dropped").inc()

    def summary(self) -> Summary:
        """How it stands."""

        def column(name: str) -> Sequence[float]:
            return [getattr(each, name) for each in self._compared] or [0.0]

        return Summary(
            release_id=self._release_id,
            compared=self._count,
            failed=self._failed,
            dropped=self._dropped,
            overlap=float(np.mean(column("overlap"))),
            score_shift=float(np.mean(column("score_shift"))),
            served_seconds=float(np.median(column("served_seconds"))),
            shadow_seconds=float(np.median(column("shadow_seconds"))),
        )
