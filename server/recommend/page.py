"""Fills a page position by position: pinned videos, reserved positions, bounds of labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set

import numpy as np

from vireo.server.arrays import Int64Array

LabelsOf = Callable[[int], Iterable[Hashable]]
"""Returns the labels of the candidate at a place."""


class Caps:
    """Bounds of how often a label may occur on one page, and what they kept off it."""

    def __init__(self, caps: Sequence[tuple[int, LabelsOf]]) -> None:
        """Start an empty page; each cap has its maximum and the labels that it counts."""
        self._caps = caps
        self._counts: list[Counter[Hashable]] = [Counter() for _ in caps]
        self._kept_off: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._caps)

    @property
    def kept_off(self) -> list[int]:
        """Number of candidates that each cap kept off the page; the first that did counts."""
        kept_off = Counter(self._kept_off.values())
        return [kept_off[number] for number in range(len(self._caps))]

    def admits(self, place: int) -> bool:
        """Return whether the page may have the candidate at a place too."""
        for number, ((most, labels_of), counts) in enumerate(
            zip(self._caps, self._counts, strict=True)
        ):
            if any(counts[label] >= most for label in labels_of(place)):
                self._kept_off[place] = number
                return False
        return True

    def add(self, place: int) -> None:
        """Count the candidate at a place, which is on the page."""
        for (_, labels_of), counts in zip(self._caps, self._counts, strict=True):
            counts.update(set(labels_of(place)))


NO_CAPS = Caps(())


def fill_page(
    order: Iterable[int],
    count: int,
    *,
    pins: Mapping[int, int] | None = None,
    queues: Sequence[tuple[float, Int64Array]] = (),
    offset: float = 0.0,
    caps: Caps = NO_CAPS,
) -> Int64Array:
    """Return the places of the candidates of a page, each once; fewer if there are no more.

    Args:
        order: places of candidates, best first.
        count: number of positions.
        pins: place of a candidate by the position that it has, from 0: at the end of the page if
            there aren't as many others. Caps count it, but don't keep it off.
        queues: for each claim its share of the positions, and places of candidates, best first.
        offset: 0 to 1; where the first positions that are reserved for claims are.
        caps: bounds of the page's labels.
    """
    pinned = {position: place for position, place in (pins or {}).items() if position < count}
    taken, chosen = set(pinned.values()), list[int]()
    for place in pinned.values():
        caps.add(place)
    waiting = [(share, iter(places.tolist())) for share, places in queues]
    rest = iter(order)
    for position in range(count):
        if position in pinned:
            chosen.append(pinned.pop(position))
            continue
        turns = [
            queue
            for share, queue in waiting
            if int(share * (position + 1) + offset) > int(share * position + offset)
        ]
        found = _first_free((*turns, rest), taken, caps)
        if found is None:
            chosen += [pinned[position] for position in sorted(pinned)]
            break
        taken.add(found)
        if caps:
            caps.add(found)
        chosen.append(found)
    return np.array(chosen, np.int64)


def _first_free(queues: Iterable[Iterator[int]], taken: Set[int], caps: Caps) -> int | None:
    """Return the first place of the first queue with one that the page may have."""
    for queue in queues:
        # What a cap refuses once, it refuses on the rest of the page.
        free = (each for each in queue if each not in taken)
        found = next((each for each in free if not caps or caps.admits(each)), None)
        if found is not None:
            return found
    return None
