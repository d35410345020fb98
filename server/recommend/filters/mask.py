"""Which of many videos a filter holds for, column by column."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vireo.server.arrays import BoolArray, Float64Array
from vireo.server.recommend.filters.expression import Condition, FilterExpression


class AttributeColumns(Protocol):
    """Attributes of n videos."""

    @property
    def count(self) -> int:
        """Number of videos."""

    def with_label(self, label: str) -> npt.NDArray[Any]:
        """Return the videos that have a label, "attribute=value": rows, in any order."""

    def number(self, attribute: str) -> Float64Array:
        """Return the number of each video, float64[n], NaN if unknown."""


def mask_of(expression: FilterExpression, columns: AttributeColumns) -> BoolArray:
    """Return for which videos a filter holds, bool[n]; the same as its `holds` of each video."""
    mask = np.ones(columns.count, np.bool_)
    for condition in expression.conditions:
        _narrow(mask, condition, columns)
    if expression.any:
        either = np.zeros(columns.count, np.bool_)
        for each in expression.any:
            either |= mask_of(each, columns)
        mask &= either
    for each in expression.none:
        mask &= ~mask_of(each, columns)
    return mask


def _narrow(mask: BoolArray, condition: Condition, columns: AttributeColumns) -> None:
    """Clear the videos that don't meet a condition."""
    if condition.min is not None:
        mask &= columns.number(condition.attribute) >= condition.min  # no NaN is
    if condition.max is not None:
        mask &= columns.number(condition.attribute) <= condition.max
    if condition.any_of:
        mask &= _with_any(condition.any_of, columns)
    for label in condition.all_of:
        mask &= _with_any((label,), columns)
    for label in condition.none_of:
        mask[columns.with_label(label)] = False


def _with_any(labels: tuple[str, ...], columns: AttributeColumns) -> BoolArray:
    found = np.zeros(columns.count, np.bool_)
    for label in labels:
        found[columns.with_label(label)] = True
    return found
