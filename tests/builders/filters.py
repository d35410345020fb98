"""Filters as requests have them, and random ones."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from tests.builders.attributes import DECLARED
from vireo.server.recommend.filters.declared import Declared
from vireo.server.recommend.filters.expression import BadFilterError, FilterExpression, decode
from vireo.v1 import filter_pb2


def message(*conditions: filter_pb2.Condition, **parts: Any) -> filter_pb2.Filter:
    """Return a filter of conditions, and of `any` and `none`."""
    return filter_pb2.Filter(conditions=conditions, **parts)


def condition(attribute: str, **parts: Any) -> filter_pb2.Condition:
    """Return a condition of one attribute."""
    return filter_pb2.Condition(attribute=attribute, **parts)


def expression(*conditions: filter_pb2.Condition, **parts: Any) -> FilterExpression:
    """Return what a filter of conditions says, of the attributes that tiny releases declare."""
    return decode(message(*conditions, **parts), "filter", DECLARED)


def random_filter(
    draw: random.Random,
    labels: Mapping[str, Sequence[str]],
    numbers: Mapping[str, Sequence[float]],
    depth: int = 1,
) -> filter_pb2.Filter:
    """Return a filter of some of these values by attribute; it may be one that is refused."""
    made = filter_pb2.Filter()
    for _ in range(draw.choice([0, 1, 1, 2, 3])):
        made.conditions.append(_random_condition(draw, labels, numbers))
    if depth < 3:
        for kind in (made.any, made.none):
            for _ in range(draw.choice([0, 0, 1, 2])):
                kind.append(random_filter(draw, labels, numbers, depth + 1))
    return made


def random_expression(
    draw: random.Random,
    labels: Mapping[str, Sequence[str]],
    numbers: Mapping[str, Sequence[float]],
) -> tuple[filter_pb2.Filter, FilterExpression]:
    """Return a filter that isn't refused, and what it says."""
    declared = Declared(tuple(labels), tuple(numbers))
    while True:
        made = random_filter(draw, labels, numbers)
        try:
            return made, decode(made, "filter", declared)
        except BadFilterError:
            pass


def _random_condition(
    draw: random.Random, labels: Mapping[str, Sequence[str]], numbers: Mapping[str, Sequence[float]]
) -> filter_pb2.Condition:
    name = draw.choice([*labels, *numbers])
    made = filter_pb2.Condition(attribute=name)
    if name in numbers:
        low, high = sorted(draw.choice(numbers[name]) for _ in range(2))
        kind = draw.choice(["min", "max", "both"])
        if kind != "max":
            made.min = low
        if kind != "min":
            made.max = high
        return made
    for kind in draw.sample(["any_of", "all_of", "none_of"], draw.choice([1, 1, 2])):
        values = labels[name]
        getattr(made, kind).extend(draw.sample(values, min(len(values), draw.choice([1, 1, 2, 3]))))
    return made
