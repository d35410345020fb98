"""How a shadow's slates compare with those that viewers got."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from prometheus_client import Counter, Histogram
from vireo.v1.release_pb2 import ShadowComparison

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


class Slate(NamedTuple):
    """The slate that one pool returned."""

    release_id: str
    """The release of its candidates and ranking."""
    ids: tuple[str, ...]
    """Best first."""
    scores: tuple[float, ...]
    """Scores by which it is ordered."""
    seconds: float
    """Latency of retrieval and ranking together."""


class Compared(NamedTuple):
    """How the shadow's slate for one request differs from the served one."""

    overlap: float
    """Share of the served top ten that is in the shadow's top ten."""
    score_shift: float
    """Mean score of the shadow's top ten minus that of the served top ten."""
    served_seconds: float
    shadow_seconds: float


def compare(served: Slate, shadow: Slate) -> Compared:
    """Compare two slates of at least one video each.

    Raises:
        ValueError: a score isn't finite; it would spoil the mean of a whole window.
    """
    if not np.isfinite([*served.scores[:_TOP], *shadow.scores[:_TOP]]).all():
        raise ValueError("a slate has a score that isn't finite")
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
    """Comparisons and counts of one pair of releases."""

    latest: deque[Compared] = field(default_factory=lambda: deque(maxlen=WINDOW))
    count: int = 0
    failed: int = 0
    dropped: int = 0


class Comparisons:
    """Counts and the latest comparisons, by served and shadow release.

    The summary covers the pair that was compared last.
    """

    def __init__(self) -> None:
        """Start without comparisons."""
        self._shadow_id = ""
        self._window = _Window()
        # By the served and the shadow's release; the pair compared last is the last.
        self._windows: OrderedDict[tuple[str, str], _Window] = OrderedDict()

    def add(self, served: Slate, shadow: Slate) -> None:
        """Compare the two slates of one request and record the outcome."""
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
        """Count a request that the shadow did not answer in full."""
        self._window.failed += 1
        OUTCOMES.labels("failed").inc()

    def dropped(self) -> None:
        """Count a request that was dropped because the queue was full."""
        self._window.dropped += 1
        OUTCOMES.labels("dropped").inc()

    def summary(self) -> ShadowComparison:
        """Return the summary of the pair that was compared last."""
        window = self._window
        latest = np.array([*window.latest] or [Compared(0.0, 0.0, 0.0, 0.0)])
        overlap, score_shift, _, _ = latest.mean(0)
        _, _, served_seconds, shadow_seconds = np.median(latest, 0)
        summary = ShadowComparison(
            release_id=self._shadow_id,
            compared=window.count,
            failed=window.failed,
            dropped=window.dropped,
            mean_overlap_10=overlap,
            mean_score_shift=score_shift,
        )
        summary.served_time.FromNanoseconds(round(served_seconds * 1e9))
        summary.shadow_time.FromNanoseconds(round(shadow_seconds * 1e9))
        return summary
