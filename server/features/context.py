"""What is known of the moment of a request or a watch, as ids that models read.

Every feature of the context is declared once, in CONTEXT. Gateways decode requests by the same
functions as training does logged watches. A data set has the features that its columns allow, a
release those of its data set, and its manifest states them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import cache, lru_cache
from typing import TYPE_CHECKING, TypeAlias
from zoneinfo import ZoneInfo, available_timezones

import numpy as np

from vireo.server.arrays import Int64Array

if TYPE_CHECKING:
    from vireo.v1 import viewer_pb2

DEVICES = ("phone", "tablet", "tv", "desktop")
"""Kinds of devices, in the order of their ids."""
LETTERS = 26

ContextIds: TypeAlias = tuple[int, ...]
"""Id of each of CONTEXT, in order."""

_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)")
_MAX_OFFSET = timedelta(hours=18)


@dataclass(frozen=True)
class ContextFeature:
    """A feature of the context, and a field of the inner hops' `ContextIds`."""

    name: str
    size: int
    """Number of its ids; id 0 says that it isn't known."""
    column: str
    """Column of a data set's interactions that it takes."""
    meaning: str


CONTEXT = (
    ContextFeature("hour", 1 + 24, "time_zone", "hour of the day in the viewer's zone"),
    ContextFeature("weekday", 1 + 7, "time_zone", "day of the week there, Monday first"),
    ContextFeature("device", 1 + len(DEVICES), "device", "kind of device"),
    ContextFeature("language", 1 + LETTERS**2, "locale", "two-letter language of the locale"),
)
"""In the order of models' inputs."""
NAMES = tuple(feature.name for feature in CONTEXT)
COLUMNS = tuple(dict.fromkeys(feature.column for feature in CONTEXT))
"""Columns of interactions that features take, each once."""

UNKNOWN: ContextIds = (0,) * len(CONTEXT)
"""The context of which nothing is known."""


class BadTimeZoneError(ValueError):
    """A text is neither the name of a time zone nor an offset."""


@cache
def time_zones() -> Mapping[str, tzinfo]:
    """Return every zone by its IANA name, all of which the first call reads within 50 ms."""
    return {name: ZoneInfo(name) for name in available_timezones()}


@lru_cache(maxsize=1024)
def time_zone(text: str) -> tzinfo:
    """Return the zone of an IANA name such as "Europe/Zurich", or of an offset such as "+02:00".

    Raises:
        BadTimeZoneError: it is neither.
    """
    offset = _OFFSET.fullmatch(text)
    if offset:
        sign, hours, minutes = offset.groups()
        ahead = timedelta(hours=int(hours), minutes=int(minutes))
        if ahead > _MAX_OFFSET or int(minutes) > 59:
            raise BadTimeZoneError(f"{text!r} isn't an offset from -18:00 to +18:00")
        return timezone(-ahead if sign == "-" else ahead)
    zone = UTC if text == "Z" else time_zones().get(text)
    if zone is None:
        raise BadTimeZoneError(
            f"{text!r} is neither the IANA name of a time zone nor an offset like +02:00"
        )
    return zone


def hour_and_weekday(seconds: int, zone: str) -> tuple[int, int]:
    """Return the ids of the hour and the day of the week at a time, given in Unix seconds.

    (0, 0) if the zone is empty, since the hour in UTC says nothing of an unknown place's, or if the
    time is beyond what a calendar has.

    Raises:
        BadTimeZoneError: the zone can't be parsed.
    """
    if not zone:
        return 0, 0
    place = time_zone(zone)
    try:
        moment = datetime.fromtimestamp(seconds, place)
    except (OverflowError, ValueError, OSError):
        return 0, 0
    return 1 + moment.hour, 1 + moment.weekday()


def device_id(text: str) -> int:
    """Return the id of a kind of device, whatever its case; 0 if it isn't one of DEVICES."""
    kind = text.strip().lower()
    return 1 + DEVICES.index(kind) if kind in DEVICES else 0


def language_id(locale: str) -> int:
    """Return the id of the language of a BCP 47 tag; 0 unless it has two letters."""
    language = re.split("[-_]", locale.strip().lower(), maxsplit=1)[0]
    if len(language) != 2 or not (language.isascii() and language.isalpha()):
        return 0
    first, second = (ord(letter) - ord("a") for letter in language)
    return 1 + first * LETTERS + second


def context_ids(seconds: int, zone: str, device: str, locale: str) -> ContextIds:
    """Return the ids of a moment's context; 0 for what is empty or not known.

    Args:
        seconds: the time, Unix seconds.
        zone: the viewer's, see `time_zone`.
        device: kind of device.
        locale: BCP 47 tag.

    Raises:
        BadTimeZoneError: the zone can't be parsed.
    """
    return (*hour_and_weekday(seconds, zone), device_id(device), language_id(locale))


def as_texts(ids: ContextIds, seconds: int) -> dict[str, str]:
    """Return texts of which `context_ids` makes the same ids at that time, by column."""
    hour, weekday, device, language = ids
    texts = {}
    if hour:
        moment = datetime.fromtimestamp(seconds, UTC)
        days = (weekday - 1 - moment.weekday() + 3) % 7 - 3
        hours = hour - 1 - moment.hour + 24 * days
        texts["time_zone"] = f"{'-' if hours < 0 else '+'}{abs(hours):02}:00"
    if device:
        texts["device"] = DEVICES[device - 1]
    if language:
        letters = divmod(language - 1, LETTERS)
        texts["locale"] = "".join(chr(ord("a") + letter) for letter in letters)
    return texts


def sent(ids: ContextIds, message: viewer_pb2.ContextIds) -> None:
    """Write the ids into a message of the inner hops."""
    for name, number in zip(NAMES, ids, strict=True):
        setattr(message, name, number)


def received(message: viewer_pb2.ContextIds) -> ContextIds:
    """Return the ids in a message of the inner hops; those that this build lacks count as 0."""
    ids = (getattr(message, name) for name in NAMES)
    return tuple(
        number if number < feature.size else 0 for number, feature in zip(ids, CONTEXT, strict=True)
    )


def sizes(names: Sequence[str]) -> tuple[int, ...]:
    """Return the number of ids of each of these features."""
    return tuple(CONTEXT[NAMES.index(name)].size for name in names)


def context_input(ids: ContextIds, names: Sequence[str]) -> Int64Array:
    """Return the ids of the features that a release reads, int64[c]."""
    return np.array([ids[NAMES.index(name)] for name in names], np.int64)


def language_match(viewers: int, videos: np.ndarray) -> np.ndarray:
    """Return whether videos are in the viewer's language: 1, -1 if not, 0 if unknown, float32[n].

    Args:
        viewers: `language_id` of the request's locale.
        videos: `language_id` of each video, int[n].
    """
    if not viewers:
        return np.zeros(len(videos), np.float32)
    known = videos > 0
    return np.where(known, np.where(videos == viewers, 1.0, -1.0), 0.0).astype(np.float32)
