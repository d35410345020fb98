"""What is recorded of a page: its candidates' scores, and what put each video in its position."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain, repeat

import numpy as np

from vireo.server.arrays import Float32Array, Int64Array
from vireo.server.recommend.candidates import Candidates
from vireo.server.recommend.page import ORDER, PIN, Page
from vireo.server.recommend.ranking.diversity import SCORE
from vireo.server.recommend.ranking.release import Ranking

_SAMPLED = 6
"""One in so many recorded candidates is of a sample of those beyond the best."""
_DRAWS = 20
"""Draws of the reserved positions by which propensities are counted."""


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


@dataclass(frozen=True)
class Record:
    """How a page of m candidates came about, with r candidates that the page has or hasn't."""

    places: Int64Array
    """Places in the query's keys, int64[r]: the page's in order, the best others, then a sample of
    the rest."""
    scores: Float32Array
    """The score that orders them, float32[r]."""
    tasks: Mapping[str, Float32Array]
    """Probability of each task of the release, float32[r]."""
    placements: Sequence[Placement]
    """What put each video of the page in its position, m."""
    propensities: Float32Array
    """Share of the draws of reserved positions in which the video has its position, float32[m]."""
    video_features: Float32Array
    """VIDEO_FEATURES of each video of the page, float32[m, f]; NaN for unknown ones."""


def recorded(query: Ranking, candidates: Candidates, chosen: Selected, count: int) -> Record:
    """Return the record of a page, of at most `count` candidates besides the page's."""
    places = chosen.page.places
    scores = np.where(candidates.rows >= 0, candidates.scores[SCORE], np.float32(-1))
    order = np.argsort(-scores, kind="stable")
    on_page = np.zeros(len(scores), np.bool_)
    on_page[places] = True
    others = order[~on_page[order]]
    room = max(0, min(count - len(places), len(others)))
    sampled = min(room // _SAMPLED, len(others) - room)
    rest = others[room - sampled :]
    sample = rest[(np.arange(sampled) * len(rest)) // max(1, sampled)]
    every = np.concatenate([places, others[: room - sampled], sample])
    tasks, rows = query.release.manifest.feature_schema.tasks, candidates.rows.take(places)
    features = query.table.features.take(rows, axis=0)
    features[rows < 0] = np.nan
    return Record(
        places=every,
        scores=candidates.scores[SCORE].take(every),
        tasks={name: candidates.scores[name].take(every) for name in tasks},
        placements=_placements(chosen, scores, order),
        propensities=_propensities(chosen),
        video_features=features,
    )


def _placements(chosen: Selected, scores: Float32Array, order: Int64Array) -> list[Placement]:
    """Return what put each video of a page in its position.

    Args:
        chosen: the page.
        scores: those of the candidates, float32[n].
        order: their places by score, int64[n].
    """
    places, placements = chosen.page.places.tolist(), list[Placement]()
    # A pinned video is left for no other position.
    gone = {p for p, by in zip(places, chosen.page.filled_by, strict=True) if by == PIN}
    best = chain(order.tolist(), repeat(-1))  # none is left but those that are pinned
    left = next(best)
    for place, filler in zip(places, chosen.page.filled_by, strict=True):
        while left in gone:
            left = next(best)
        if filler == PIN:
            placements.append(Placement.PINNED)
        elif filler != ORDER:
            placements.append(chosen.claims[filler])
        elif scores[place] >= scores[left]:
            placements.append(Placement.SCORE)
        else:
            placements.append(Placement.DIVERSITY)
        gone.add(place)
    return placements


def _propensities(chosen: Selected) -> Float32Array:
    """Return the share of evenly spaced draws in which each position has its video, float32[m]."""
    places = chosen.page.places
    if chosen.drawn is None:
        return np.ones(len(places), np.float32)
    same = np.zeros(len(places))
    for draw in (np.arange(_DRAWS) + 0.5) / _DRAWS:
        others = chosen.drawn(float(draw)).places[: len(places)]
        same[: len(others)] += others == places[: len(others)]
    # The draw that was made counts too, so that none is 0.
    return ((same + 1) / (_DRAWS + 1)).astype(np.float32)
