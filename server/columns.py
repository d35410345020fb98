"""Columns of the inner hops: a float32 a candidate, by the names of `vireo.server.signals`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from google.protobuf.any_pb2 import Any

from vireo.server.arrays import Float32Array
from vireo.server.signals import SCORES, TASKS, Column
from vireo.v1 import viewer_pb2

MAX_COLUMNS, MAX_NAME_BYTES = 64, 64
"""Bounds that the protos declare. Requests are validated against those, responses are not."""

SCORE_COLUMNS: Mapping[str, Column] = {score.name: score for score in SCORES}
TASK_COLUMNS: Mapping[str, Column] = {task.name: task for task in TASKS}


class BadColumnError(Exception):
    """Columns break the contract; the message names the column."""


def encode_columns(columns: Mapping[str, Float32Array]) -> list[viewer_pb2.ScoreColumn]:
    """Return columns, float32[n] each, as messages carry them."""
    # Packed floats are bytes on the wire, in the field in which Any has its bytes. So a column is
    # copied as a whole; from a list of floats it takes five times as long.
    wire = (
        Any(type_url=name, value=values.astype("<f4", copy=False).tobytes()).SerializeToString()
        for name, values in columns.items()
    )
    return [viewer_pb2.ScoreColumn.FromString(each) for each in wire]


def check_columns(
    columns: Sequence[viewer_pb2.ScoreColumn], count: int, declared: Mapping[str, Column]
) -> dict[str, Float32Array]:
    """Return the columns by name, float32[count] each, those of other builds included.

    Raises:
        BadColumnError: there are too many columns, a name is empty, too long or occurs twice, or a
            column differs from `count` in length or has a value that isn't finite or is out of its
            declared bounds.
    """
    if len(columns) > MAX_COLUMNS:
        raise BadColumnError(f"{len(columns)} columns, more than {MAX_COLUMNS}")
    found: dict[str, Float32Array] = {}
    for column in columns:
        name, size = column.name, len(column.name.encode())
        if not 1 <= size <= MAX_NAME_BYTES:
            raise BadColumnError(f"a name has {size} bytes instead of 1 to {MAX_NAME_BYTES}")
        if name in found:
            raise BadColumnError(f"{name} occurs twice")
        if len(column.values) != count:
            raise BadColumnError(f"{name} has {len(column.values)} values instead of {count}")
        values = np.array(column.values, np.float32)
        each = declared.get(name) or Column(name, "")
        if not each.admits(values):
            finite = np.isfinite(values).all()
            wrong = f"outside {each.low:g} to {each.high:g}" if finite else "that isn't finite"
            raise BadColumnError(f"{name} has a value {wrong}")
        found[name] = values
    return found


def decode_columns(
    columns: Sequence[viewer_pb2.ScoreColumn], count: int, declared: Mapping[str, Column]
) -> dict[str, Float32Array]:
    """Return every declared column, float32[count], its neutral value if it is absent.

    Raises:
        BadColumnError: a column isn't declared, or breaks a rule of `check_columns`.
    """
    found = check_columns(columns, count, declared)
    decoded = {
        name: found.pop(name) if name in found else np.full(count, each.neutral, np.float32)
        for name, each in declared.items()
    }
    if found:
        raise BadColumnError(f"{next(iter(found))!r} is none of {', '.join(decoded)}")
    return decoded
