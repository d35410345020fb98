"""Why a filter doesn't hold for a video, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from datetime import UTC, datetime

from vireo.server.recommend.filters.declared import PUBLISHED, label
from vireo.server.recommend.filters.expression import Condition, FilterExpression
from vireo.server.recommend.wording import listed

_MIN_TIME, _MAX_TIME = -62_135_596_800, 253_402_300_799
"""Unix seconds that are written as a date: those of the years 1 to 9999."""


def unmet(
    expression: FilterExpression, labels: Set[str], numbers: Mapping[str, float]
) -> str | None:
    """Return the first part of a filter that a video doesn't meet; None if the filter holds.

    Args:
        expression: the filter.
        labels: the video's labels, each "attribute=value".
        numbers: its numbers by attribute; unknown ones are absent or NaN.
    """
    for condition in expression.conditions:
        if not condition.holds(labels, numbers):
            return _unmet(condition, labels, numbers)
    if expression.any and not any(each.holds(labels, numbers) for each in expression.any):
        first = unmet(expression.any[0], labels, numbers)
        if len(expression.any) == 1:
            return first
        return f"it meets none of {len(expression.any)} alternatives, of the first since {first}"
    for place, each in enumerate(expression.none):
        if not each.holds(labels, numbers):
            continue
        match each:
            case FilterExpression(conditions=(), any=(), none=(wanted,)):  # it must hold
                return unmet(wanted, labels, numbers)
            case _:
                return f"it meets none[{place}], which it must not meet"
    return None


def _unmet(condition: Condition, labels: Set[str], numbers: Mapping[str, float]) -> str:
    name = condition.attribute
    if condition.min is not None or condition.max is not None:
        return _unmet_number(condition, numbers.get(name, math.nan))
    if condition.any_of and labels.isdisjoint(condition.any_of):
        prefix = label(name, "")
        mine = sorted(each.removeprefix(prefix) for each in labels if each.startswith(prefix))
        wanted = listed([each.removeprefix(prefix) for each in condition.any_of], "or")
        return f"its {name} is {listed(mine) if mine else 'unknown'}, and must be {wanted}"
    for each in condition.all_of:
        if each not in labels:
            return f"it lacks the {_words(each)}"
    forbidden = next(each for each in condition.none_of if each in labels)
    return f"it has the {_words(forbidden)}, which it must not have"


def _unmet_number(condition: Condition, number: float) -> str:
    name, low, high = condition.attribute, condition.min, condition.max
    bounds = [f"at least {_written(name, low)}"] if low is not None else []
    bounds += [f"at most {_written(name, high)}"] if high is not None else []
    mine = "unknown" if math.isnan(number) else _written(name, number)
    return f"its {name} is {mine}, and must be {' and '.join(bounds)}"


def _written(attribute: str, number: float) -> str:
    if attribute == PUBLISHED and _MIN_TIME <= number <= _MAX_TIME:
        return datetime.fromtimestamp(number, UTC).isoformat(timespec="seconds")
    return f"{number:.10g}"


def _words(text: str) -> str:
    """Return "tag a=b" for the label "tag=a=b"."""
    attribute, _, value = text.partition("=")
    return f"{attribute} {value}"
