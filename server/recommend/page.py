"""Fills a page position by position: pinned videos, reserved positions, bounds of labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from vireo.server.arrays import Int64Array

LabelsOf = Callable[[int], Iterable[Hashable]]
"""Returns the labels of the candidate at a place."""
Caps = Sequence[tuple[int, LabelsOf]]
"""How often a label may occur on the pages of a slate, and the labels that count."""


class _Counted:
    """What the caps of a page have counted so far; arguments are those of `fill_page`."""

    def __init__(self, caps: Caps, shown: Sequence[Iterable[Hashable]]) -> None:
        self._caps = caps
        self._counts: list[Counter[Hashable]] = [
            Counter(labels) for _, labels in zip_longest(caps, shown, fillvalue=())
        ]
        self.kept_off: dict[int, int] = {}
        """The first cap that kept each place off the page."""

    def admits(self, place: int) -> bool:
        """Return whether the page may have the candidate at a place too."""
        for number, ((most, labels_of), counts) in enumerate(
            zip(self._caps, self._counts, strict=True)
        ):
            if any(counts[label] >= most for label in labels_of(place)):
                self.kept_off[place] = number
                return False
        return True

    def add(self, place: int) -> None:
        """Count the candidate at a place, which is on the page."""
        for (_, labels_of), counts in zip(self._caps, self._counts, strict=True):
            counts.update(set(labels_of(place)))


ORDER, PIN = -1, -2
"""In `Page.filled_by`: the position has the next candidate of the order, or a pinned one."""


class Page(NamedTuple):
    """The candidates of a page, by position."""

    places: Int64Array
    """Place of each candidate, int64[m]."""
    filled_by: Sequence[int]
    """What filled each position, m: the index of a claim, ORDER or PIN."""
    kept_off: Sequence[int] = ()
    """Number of candidates that each cap kept off the page; the first that did counts."""


def fill_page(
    order: Iterable[int],
    count: int,
    *,
    pins: Mapping[int, int] | None = None,
    queues: Sequence[tuple[float, Int64Array]] = (),
    offset: float = 0.0,
    caps: Caps = (),
    shown: Sequence[Iterable[Hashable]] = (),
) -> Page:
    """Return a page of candidates, each once; it is shorter if there are no more.

    Args:
        order: places of candidates, best first.
        count: number of positions.
        pins: place of a candidate by the position that it has, from 0: at the end of the page if
            there aren't as many others. Caps count it, but don't keep it off.
        queues: for each claim its share of the positions, and places of candidates, best first.
        offset: 0 to 1; where the first positions that are reserved for claims are.
        caps: bounds of the page's labels.
        shown: for each cap the labels of the pages before; empty if there are none.
    """
    counted = _Counted(caps, shown) if caps else None
    pinned = {position: place for position, place in (pins or {}).items() if position < count}
    taken, chosen, filled_by = set(pinned.values()), list[int](), list[int]()
    if counted:
        for place in pinned.values():
            counted.add(place)
    waiting = [
        (claim, share, iter(places.tolist())) for claim, (share, places) in enumerate(queues)
    ]
    rest = ORDER, iter(order)
    for position in range(count):
        if position in pinned:
            chosen.append(pinned.pop(position))
            filled_by.append(PIN)
            continue
        turns = [
            (claim, queue)
            for claim, share, queue in waiting
            if int(share * (position + 1) + offset) > int(share * position + offset)
        ]
        found = _first_free((*turns, rest), taken, counted)
        if found is None:
            chosen += [pinned[position] for position in sorted(pinned)]
            filled_by += [PIN] * len(pinned)
            break
        claim, place = found
        taken.add(place)
        if counted:
            counted.add(place)
        chosen.append(place)
        filled_by.append(claim)
    kept_off = Counter(counted.kept_off.values() if counted else ())
    return Page(
        np.array(chosen, np.int64), filled_by, [kept_off[each] for each in range(len(caps))]
    )


def _first_free(
    queues: Iterable[tuple[int, Iterator[int]]], taken: Set[int], caps: _Counted | None
) -> tuple[int, int] | None:
    """Return the first queue with a place that the page may have, by its name, and that place."""
    for name, queue in queues:
        # What a cap refuses once, it refuses on the rest of the page.
        free = (each for each in queue if each not in taken)
        found = next((each for each in free if not caps or caps.admits(each)), None)
        if found is not None:
            return name, found
    return None
