"""Columns of the inner hops: scores by name, and what retrieval says of the site's rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from google.protobuf.any_pb2 import Any

from vireo.server.arrays import Float32Array
from vireo.server.signals import SCORES, TASKS, Column
from vireo.v1 import rules_pb2, viewer_pb2

MAX_COLUMNS, MAX_NAME_BYTES = 64, 64
"""Bounds that the protos declare. Requests are validated against those, responses are not."""

SCORE_COLUMNS: Mapping[str, Column] = {score.name: score for score in SCORES}
TASK_COLUMNS: Mapping[str, Column] = {task.name: task for task in TASKS}
_UNREAD = np.empty(0, np.float32)

MIN_FACTOR, MAX_FACTOR = 0.01, 100.0
"""Bounds of a rule's factor of scores, and of the product of several."""
MAX_LABELS = 32
"""Maximum labels of one candidate that a cap counts."""


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
    """Return the columns by name, float32[count] each; those of other builds, unread, are empty.

    Raises:
        BadColumnError: there are too many columns, a name is empty, too long or occurs twice, or a
            column differs from `count` in length, or a declared one has a value that isn't finite
            or is out of its bounds.
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
        each = declared.get(name)
        if each is None:
            found[name] = _UNREAD
            continue
        values = np.array(column.values, np.float32)
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


def check_rule_columns(
    columns: rules_pb2.RuleColumns, rules: rules_pb2.SlateRules, count: int
) -> None:
    """Check what retrieval answered for some rules of its `count` candidates.

    A build that knows no rules answers none of the columns.

    Raises:
        BadColumnError: a column differs in length from the candidates or the rules, or a factor is
            out of its bounds.
    """
    if columns.factors:
        _check_rule_length("factors", len(columns.factors), count)
        factors = np.array(columns.factors, np.float32)
        if not ((factors >= np.float32(MIN_FACTOR)) & (factors <= MAX_FACTOR)).all():
            text = f"factors has a value outside {MIN_FACTOR:g} to {MAX_FACTOR:g}"
            raise BadColumnError(text)
    for name, values, asked in (
        ("labels", columns.labels, rules.caps),
        ("forbidden", columns.forbidden, rules.filters),
        ("boosted", columns.boosted, rules.boosts),
    ):
        if len(values):
            _check_rule_length(name, len(values), len(asked))
    for place, column in enumerate(columns.labels):
        _check_rule_length(f"labels[{place}].counts", len(column.counts), count)
        _check_rule_length(f"labels[{place}].labels", len(column.labels), sum(column.counts))


def _check_rule_length(name: str, values: int, wanted: int) -> None:
    if values != wanted:
        raise BadColumnError(f"{name} has {values} values instead of {wanted}")
