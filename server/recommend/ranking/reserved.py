"""Positions of a page that are reserved: for new videos, trending ones and the site's rules."""

from __future__ import annotations

from collections.abc import Mapping

import xxhash

from vireo.server.arrays import BoolArray, Int64Array
from vireo.server.recommend.candidates import Candidates, best
from vireo.server.recommend.page import fill_page
from vireo.server.recommend.ranking.damping import damping
from vireo.server.recommend.ranking.diversity import diverse_best
from vireo.server.recommend.ranking.query import Ranking
from vireo.server.recommend.ranking.stages import SCORE
from vireo.server.signals import COLD_SHARE, TRENDING

NEW_SHARE = 0.05
"""Share of the positions that the best new videos get, until they were seen often enough; a rule of
the site may set another."""
NEW_IMPRESSIONS = 1_000
"""Impressions after which a new video has its place by its score alone."""


class DiverseBestAndReserved:
    """Selects the page as `diverse_best` orders it, but for reserved positions and capped labels.

    No share is reserved for videos that are damped, since the viewer has hidden one like them.
    Which positions are reserved depends on the request alone: a shorter page is a prefix of a
    longer one, and shares below one position a page hold over many requests.
    """

    name = "diverse_best_and_reserved"

    def select(self, query: Ranking, candidates: Candidates) -> Candidates:
        """Return the page, with the best of those for whom a position is reserved in it."""
        rules, caps = query.query.rules, query.caps
        page = min(query.query.page_size, len(candidates))
        # What a cap keeps off the page makes room for any of the others.
        usual = diverse_best(query, candidates, len(candidates) if caps else page)
        queues = [
            (share, best(places, candidates.scores[SCORE][places], candidates.keys, len(usual)))
            for share, wanted in _claims(query, candidates)
            if len(places := _undamped(query, candidates, wanted))
        ]
        pins = {} if rules is None else _places_of(rules.pins, candidates)
        if queues or pins or caps:
            usual = fill_page(
                usual.tolist(),
                page,
                pins=pins,
                queues=queues,
                offset=_offset(query) if queues else 0.0,
                caps=caps,
            )
        return candidates.take(usual)


def _claims(query: Ranking, candidates: Candidates) -> list[tuple[float, BoolArray]]:
    """Return shares of the positions, and which candidates, bool[n], they are reserved for."""
    live, rules = query.release.live, query.query.rules
    claims: list[tuple[float, BoolArray]] = []
    if live is None:
        return claims
    share = NEW_SHARE if rules is None or rules.new_share is None else rules.new_share
    if share and live.table.places:
        claims.append((share, live.unseen(candidates.keys, candidates.rows, NEW_IMPRESSIONS)))
    if not len(query.viewer.history_keys):
        claims.append((COLD_SHARE, candidates.source_masks & TRENDING.bit > 0))
    return claims


def _places_of(pins: Mapping[int, int], candidates: Candidates) -> dict[int, int]:
    """Return the place of the candidate that each position is for, where the release knows it."""
    found = {}
    for position, key in pins.items():
        places = ((candidates.keys == key) & (candidates.rows >= 0)).nonzero()[0]
        if len(places):
            found[position] = int(places[0])
    return found


def _undamped(query: Ranking, candidates: Candidates, wanted: BoolArray) -> Int64Array:
    """Return the places of the wanted candidates but for those like a video that was hidden."""
    places = (wanted & (candidates.rows >= 0)).nonzero()[0]
    factors = damping(query, candidates.rows[places]) if len(places) else None
    return places if factors is None else places[factors >= 1]


def _offset(query: Ranking) -> float:
    """Return a number from 0 to 1 by the request: the same for the same request."""
    asked = query.query.keys[:16].tobytes() + query.viewer.asked_at.to_bytes(8, "little")
    return xxhash.xxh3_64_intdigest(asked) / 2.0**64
