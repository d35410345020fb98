"""Context of interactions: device, time zone and locale as logged, and the ids that models read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from vireo.server.arrays import Int64Array
from vireo.server.features.context import (
    NAMES,
    BadTimeZoneError,
    ContextIds,
    device_id,
    hour_and_weekday,
    language_id,
    time_zone,
)

Int16Array = npt.NDArray[np.int16]

_PREFIX = "context."
_QUARTER = 900
"""Seconds within which no zone of today changes its hour."""


def is_time_zone(text: str) -> bool:
    """Return whether a text names a time zone or an offset."""
    try:
        time_zone(text)
    except BadTimeZoneError:
        return False
    return True


def watch_column(name: str) -> str:
    """Return the column of `watches.parquet` with the ids of a feature."""
    return _PREFIX + name


def context_names(columns: Iterable[str]) -> tuple[str, ...]:
    """Return the features that watches with these columns have, in the order of CONTEXT."""
    given = set(columns)
    return tuple(name for name in NAMES if watch_column(name) in given)


def context_columns(
    interactions: pd.DataFrame, chosen: Int64Array | Sequence[int]
) -> dict[str, Int64Array]:
    """Return the ids of each feature that the interactions' columns allow, int16[m] by column.

    A time zone that can't be parsed counts as unknown.

    Args:
        interactions: rows as in `vireo.training.data.schema.INTERACTIONS`.
        chosen: positions of m of them.
    """
    some = interactions.iloc[np.asarray(chosen)]
    found: dict[str, Int64Array] = {}
    if "time_zone" in some:
        seconds = some["timestamp"].to_numpy("datetime64[s]").astype(np.int64)
        codes, zones = pd.factorize(some["time_zone"])
        found["hour"], found["weekday"] = hours_and_weekdays(seconds, codes, zones)
    if "device" in some:
        found["device"] = _mapped(some["device"], device_id)
    if "locale" in some:
        found["language"] = _mapped(some["locale"], language_id)
    return {watch_column(name): found[name].astype(np.int16) for name in NAMES if name in found}


def _mapped(column: pd.Series, number: Callable[[str], int]) -> Int64Array:
    """Return the number of each text, 0 for missing ones, int64[m]."""
    codes, texts = pd.factorize(column)  # missing ones have code -1
    return np.array([*(number(str(text)) for text in texts), 0], np.int64)[codes]


def hours_and_weekdays(
    seconds: Int64Array, codes: npt.NDArray[np.integer], zones: Sequence[str] | pd.Index[Any]
) -> tuple[Int64Array, Int64Array]:
    """Return what `hour_and_weekday` returns of each time and zone, int64[m] each; 0 if unknown.

    Args:
        seconds: Unix seconds, int64[m].
        codes: index of each zone in `zones`, -1 if it isn't known, int[m].
        zones: the zones.
    """
    if not len(seconds):  # pandas can't number the rows of none
        return np.empty(0, np.int64), np.empty(0, np.int64)
    moments = pd.DataFrame({"zone": codes, "quarter": seconds // _QUARTER})
    places, asked = pd.factorize(pd.MultiIndex.from_frame(moments))
    pairs = [_known(quarter * _QUARTER, zone, zones) for zone, quarter in asked]
    table = np.array(pairs, np.int64).reshape(-1, 2)[places]
    return table[:, 0], table[:, 1]


def _known(seconds: int, zone: int, zones: Sequence[str] | pd.Index[Any]) -> tuple[int, int]:
    try:
        return hour_and_weekday(int(seconds), str(zones[zone])) if zone >= 0 else (0, 0)
    except BadTimeZoneError:
        return 0, 0


def contexts_of(watches: pd.DataFrame) -> list[ContextIds]:
    """Return the context of each watch as a request's."""
    columns = [watch_column(name) for name in NAMES]
    ids = watches.reindex(columns=columns, fill_value=0).to_numpy(np.int64)
    return [tuple(each) for each in ids.tolist()]


def video_languages(labels: Iterable[Sequence[str] | None]) -> Int64Array:
    """Return the `language_id` of each video's first label of `language`, int64[n]."""
    return np.array(
        [language_id(each[0]) if each is not None and len(each) else 0 for each in labels], np.int64
    )
