"""Which videos a slate may have, by the attributes that the server's release declares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vireo_client.messages import FilterMessage


@dataclass(frozen=True, slots=True)
class Condition:
    """What must be true of one attribute; all that is set must hold.

    Labels, for example `tag`, `creator` or `language`, are compared by `any_of`, `all_of` and
    `none_of`; numbers, for example `duration` in seconds or `published` in Unix seconds, by `min`
    and `max`. A video of which the attribute isn't known meets `none_of` alone.
    """

    attribute: str
    """Name of the attribute, as the release declares it."""
    any_of: Iterable[str] = ()
    """The video has at least one of these labels."""
    all_of: Iterable[str] = ()
    """The video has all of these labels."""
    none_of: Iterable[str] = ()
    """The video has none of these labels."""
    min: float | None = None
    """The video's number is at least this."""
    max: float | None = None
    """The video's number is at most this."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Holds for a video if all of `conditions` hold, one of `any` unless empty, and no `none`.

    At most 64 values and bounds in all, and at most 4 filters within one another.
    """

    conditions: Iterable[Condition] = ()
    any: Iterable[Filter] = ()
    """Filters of which at least one must hold."""
    none: Iterable[Filter] = ()
    """Filters of which none may hold."""

    def message(self) -> FilterMessage:
        """Return the message; raise ValueError for a value that none can hold."""
        message = FilterMessage(
            any=[each.message() for each in self.any],
            none=[each.message() for each in self.none],
        )
        for each in self.conditions:
            message.conditions.add(
                attribute=each.attribute,
                any_of=each.any_of,
                all_of=each.all_of,
                none_of=each.none_of,
                min=each.min,
                max=each.max,
            )
        return message
