"""The words in which services tell why a video isn't on a page."""

from __future__ import annotations

from collections.abc import Container, Sequence

MAX_LISTED = 3
"""Maximum items of a list that are named; the others are counted."""

REMOVED = "It was removed from the catalogue."
UNPUBLISHED = "It isn't published yet."


def ordinal(number: int) -> str:
    """Return "1st", "2nd", "1,000th" and the like."""
    teens = number % 100 in (11, 12, 13)
    ending = "th" if teens else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"


def listed(items: Sequence[str], last: str = "and") -> str:
    """Return at most MAX_LISTED items, for example "a, b and 5 more"; `last` joins the last one."""
    shown = [*items]
    if len(shown) > MAX_LISTED + 1:
        shown[MAX_LISTED:] = [f"{len(items) - MAX_LISTED} more"]
    *begin, end = shown
    return f"{', '.join(begin)} {last} {end}" if begin else end


def why_blocked(
    key: int,
    *,
    seed_key: int | None,
    hidden: Container[int],
    watched: Container[int],
    excluded: Container[int],
) -> str:
    """Return why a request's slates must not have a video; empty if they may."""
    if key == seed_key:
        return "It is the video that is playing."
    if key in hidden:
        return "The viewer has hidden it."
    if key in watched:
        return "The viewer has watched it."
    if key in excluded:
        return "The request excludes it."
    return ""
