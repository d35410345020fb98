"""Fills a page position by position: pinned videos, reserved positions, bounds of labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
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
        for each in pinned.values():
            counted.add(each)
    rest, left = iter(order), [iter(places.tolist()) for _, places in queues]
    # Number of each claim's positions before each position.
    reserved = [[int(share * at + offset) for at in range(count + 1)] for share, _ in queues]

    def first_free(queue: Iterator[int]) -> int | None:
        for place in queue:
            # What a cap refuses once, it refuses on the rest of the page.
            if place not in taken and (counted is None or counted.admits(place)):
                return place
        return None

    for position in range(count):
        if position in pinned:
            chosen.append(pinned.pop(position))
            filled_by.append(PIN)
            continue
        for claim, before in enumerate(reserved):
            if before[position + 1] > before[position]:
                place = first_free(left[claim])
                if place is not None:
                    break
        else:
            claim, place = ORDER, first_free(rest)
        if place is None:
            chosen += [pinned[position] for position in sorted(pinned)]
            filled_by += [PIN] * len(pinned)
            break
        taken.add(place)
        if counted:
            counted.add(place)
        chosen.append(place)
        filled_by.append(claim)
    kept_off = Counter(counted.kept_off.values()) if counted else Counter[int]()
    return Page(
        np.array(chosen, np.int64), filled_by, [kept_off[each] for each in range(len(caps))]
    )
