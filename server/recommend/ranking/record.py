"""What is recorded of a page: its candidates' scores, and what put each video in its position."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import numpy as np

from vireo.server.arrays import Float32Array, Int64Array
from vireo.server.recommend.candidates import Candidates
from vireo.server.recommend.page import ORDER, PIN, Page
from vireo.server.recommend.ranking.diversity import SCORE
from vireo.server.recommend.ranking.release import Ranking

_SAMPLED = 6
"""One in so many recorded candidates is of a sample of those beyond the best."""
_MAX_DRAWS = 20
"""Maximum draws of the reserved positions for which a page is filled to know its propensities."""


class Placement(IntEnum):
    """What put a video in its position, with the numbers of the enum of the API."""

    SCORE = 1
    DIVERSITY = 2
    PINNED = 3
    NEW = 4
    TRENDING = 5


@dataclass(frozen=True)
class Selected:
    """A page, and how it came about."""

    page: Page
    claims: Sequence[Placement]
    """What each claim's positions are reserved for, by its index in `Page.filled_by`."""
    drawn: Callable[[float], Page] | None = None
    """Returns the page if the draw that places reserved positions, 0 to 1, is another; None if none
    is reserved."""
    shares: Sequence[float] = ()
    """Share of the positions that are reserved for each claim."""


@dataclass(frozen=True)
class Record:
    """How a page of m candidates came about, with r candidates that the page has or hasn't."""

    places: Int64Array
    """Places in the query's keys, int64[r]: the page's in order, the best others, then a sample of
    the rest."""
    scores: Mapping[str, Float32Array]
    """By column of the archive, float32[r] each: "score", which orders them; "task_…", the
    probability of each task of the release; and "retrieval_…", each of `signals.SCORES`."""
    placements: Sequence[Placement]
    """What put each video of the page in its position, m."""
    propensities: Float32Array
    """Probability, over the draws of reserved positions, that the video has its position,
    float32[m]: exact, unless there are more than 20 pages to draw."""
    video_features: Float32Array
    """VIDEO_FEATURES of each video of the page, float32[m, f]; NaN for unknown ones."""


def recorded(query: Ranking, candidates: Candidates, chosen: Selected, count: int) -> Record:
    """Return the record of a page, of at most `count` candidates besides the page's."""
    places = chosen.page.places
    scores = np.where(candidates.rows >= 0, candidates.scores[SCORE], np.float32(-1))
    others = scores.copy()
    others[places] = -np.inf
    order = np.argsort(-others)[: len(others) - len(places)]
    best = float(others[order[0]]) if len(order) else -np.inf
    room = max(0, min(count - len(places), len(order)))
    sampled = min(room // _SAMPLED, len(order) - room)
    rest = order[room - sampled :]
    sample = rest[(np.arange(sampled) * len(rest)) // max(1, sampled)]
    every = np.concatenate([places, order[: room - sampled], sample])
    tasks, rows = query.release.manifest.feature_schema.tasks, candidates.rows.take(places)
    features = query.table.features.take(rows, axis=0)
    features[rows < 0] = np.nan
    columns = {"score": candidates.scores[SCORE]}
    columns |= {f"task_{name}": candidates.scores[name] for name in tasks}
    columns |= {f"retrieval_{name}": each for name, each in query.query.scores.items()}
    return Record(
        places=every,
        scores={name: each.take(every) for name, each in columns.items()},
        placements=_placements(chosen, scores.take(places).tolist(), best),
        propensities=propensities(chosen),
        video_features=features,
    )


def _placements(chosen: Selected, scores: Sequence[float], best: float) -> list[Placement]:
    """Return what put each video of a page in its position.

    Args:
        chosen: the page.
        scores: those of its videos, m.
        best: that of the best other candidate.
    """
    placements = list[Placement]()
    for score, filler in zip(reversed(scores), reversed(chosen.page.filled_by), strict=True):
        if filler == PIN:  # it is left for no other position
            placements.append(Placement.PINNED)
            continue
        if filler != ORDER:
            placements.append(chosen.claims[filler])
        else:
            placements.append(Placement.SCORE if score >= best else Placement.DIVERSITY)
        best = max(best, score)
    return placements[::-1]


def propensities(chosen: Selected) -> Float32Array:
    """Return the probability that each position of a page has its video, float32[m]."""
    places = chosen.page.places
    if chosen.drawn is None:
        return np.ones(len(places), np.float32)
    # A page is the same between two draws at which a claim gets another position.
    begins = (-share * (at + 1) % 1 for share in chosen.shares for at in range(len(places)))
    draws = sorted({0.0, 1.0, *(round(each, 9) for each in begins)})
    if len(draws) > _MAX_DRAWS + 1:
        draws = np.linspace(0, 1, _MAX_DRAWS + 1).tolist()
    same, shortest = np.zeros(len(places)), 1.0
    for begin, end in pairwise(draws):
        others = chosen.drawn((begin + end) / 2).places[: len(places)]
        same[: len(others)] += (end - begin) * (others == places[: len(others)])
        shortest = min(shortest, end - begin)
    # The draw that was made is between two of them, so no propensity is less.
    return same.clip(shortest, 1).astype(np.float32)
