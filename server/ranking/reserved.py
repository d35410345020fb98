"""Positions that are reserved: for new videos, and for what is trending before cold viewers."""

from __future__ import annotations

import numpy as np
import xxhash

from server.arrays import BoolArray, Int64Array
from server.pipeline.best import best
from server.pipeline.candidates import Candidates
from server.ranking.damping import damping
from server.ranking.diversity import DiverseBest
from server.ranking.query import Ranking
from server.ranking.stages import SCORE
from server.signals import COLD_SHARE, TRENDING

NEW_SHARE = 0.05
"""Share of the positions that the best new videos get, until they were seen often enough."""
NEW_IMPRESSIONS = 1_000
"""Impressions after which a new video has its place by its score alone."""


class DiverseBestAndReserved:
    """Selects the page as `DiverseBest` does, but for the positions that are reserved.

    None is reserved for videos that are damped, since the viewer has hidden one like them.
    Which positions are reserved depends on the request alone: a shorter page is a prefix of a
    longer one, and shares below one position a page hold over many requests.
    """

    name = "diverse_best_and_reserved"
    _diverse = DiverseBest()

    def select(self, query: Ranking, candidates: Candidates) -> Candidates:
        """Return the page, with the best of those for whom a position is reserved in it."""
        usual = self._diverse.order(query, candidates)
        live = query.release.live
        claims = []
        if live is not None and live.side.places:
            unseen = live.unseen(candidates.keys, candidates.rows, NEW_IMPRESSIONS)
            claims.append((NEW_SHARE, unseen))
        if not len(query.viewer.history_keys):
            claims.append((COLD_SHARE, candidates.source_masks & TRENDING.bit > 0))
        queues = [
            (share, best(places, candidates.scores[SCORE][places], candidates.keys, len(usual)))
            for share, wanted in claims
            if len(places := _undamped(query, candidates, wanted))
        ]
        if queues:
            usual = reserve(usual, queues, _offset(query))
        return candidates.take(usual)


def _undamped(query: Ranking, candidates: Candidates, wanted: BoolArray) -> Int64Array:
    """Return the places of the wanted candidates but for those like a video that was hidden."""
    places = (wanted & (candidates.rows >= 0)).nonzero()[0]
    factors = damping(query, candidates.rows[places]) if len(places) else None
    return places if factors is None else places[factors >= 1]


def reserve(usual: Int64Array, queues: list[tuple[float, Int64Array]], offset: float) -> Int64Array:
    """Return the places of candidates with reserved positions, as many as `usual`.

    Args:
        usual: places of the candidates of a page, in order.
        queues: for each claim its share of the positions, and places of candidates, best first.
        offset: 0 to 1; where the first reserved positions are.
    """
    waiting = [(share, iter(places.tolist())) for share, places in queues]
    rest, taken, chosen = iter(usual.tolist()), set[int](), []
    for position in range(len(usual)):
        turns = [
            queue
            for share, queue in waiting
            if int(share * (position + 1) + offset) > int(share * position + offset)
        ]
        for queue in (*turns, rest):
            place = next((each for each in queue if each not in taken), None)
            if place is not None:
                break
        assert place is not None  # `rest` alone has enough
        taken.add(place)
        chosen.append(place)
    return np.array(chosen, np.int64)


def _offset(query: Ranking) -> float:
    """Return a number from 0 to 1 by the request: the same for the same request."""
    asked = query.query.keys[:16].tobytes() + query.viewer.asked_at.to_bytes(8, "little")
    return xxhash.xxh3_64_intdigest(asked) / 2.0**64
