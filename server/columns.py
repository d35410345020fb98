"""Columns of the inner hops: a float32 for each candidate, by the names of `server.signals`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from vireo.v1 import viewer_pb2

from server.signals import Column

Float32Array = npt.NDArray[np.float32]


class BadColumnError(Exception):
    """Columns break the contract; the message names the column."""


def encode_columns(columns: Mapping[str, Float32Array]) -> list[viewer_pb2.ScoreColumn]:
    """Return columns, float32[n] each, as messages carry them."""
    return [
        viewer_pb2.ScoreColumn(name=name, values=values.tolist())
        for name, values in columns.items()
    ]


def check_columns(
    columns: Iterable[viewer_pb2.ScoreColumn], count: int, declared: Sequence[Column]
) -> dict[str, Float32Array]:
    """Return the columns by name, float32[count] each, those of other builds included.

    Raises:
        BadColumnError: a name occurs twice, or a column differs from `count` in length or has a
            value out of its declared bounds.
    """
    bounds = {each.name: each for each in declared}
    found: dict[str, Float32Array] = {}
    for column in columns:
        name, values = column.name, np.array(column.values, np.float32)
        if name in found:
            raise BadColumnError(f"{name} occurs twice")
        if len(values) != count:
            raise BadColumnError(f"{name} has {len(values)} values instead of {count}")
        each = bounds.get(name)
        if each is not None and not each.admits(values):
            raise BadColumnError(f"{name} has a value outside {each.low:g} to {each.high:g}")
        found[name] = values
    return found


def decode_columns(
    columns: Iterable[viewer_pb2.ScoreColumn], count: int, declared: Sequence[Column]
) -> dict[str, Float32Array]:
    """Return every declared column, float32[count], its neutral value if it is absent.

    Raises:
        BadColumnError: a column isn't declared, or breaks a rule of `check_columns`.
    """
    found = check_columns(columns, count, declared)
    decoded = {
        each.name: found.pop(each.name)
        if each.name in found
        else np.full(count, each.neutral, np.float32)
        for each in declared
    }
    if found:
        raise BadColumnError(f"{next(iter(found))!r} is none of {', '.join(decoded)}")
    return decoded
