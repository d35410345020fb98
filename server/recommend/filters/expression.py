"""What a filter says: decoded from a request, checked, true or false of a video, and why."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from vireo.server.errors import VireoError
from vireo.server.recommend.filters.declared import PUBLISHED, Declared, label
from vireo.server.recommend.wording import listed

if TYPE_CHECKING:  # benchmarks' environments lack stubs
    from vireo.v1 import filter_pb2

MAX_TERMS = 64
"""Maximum values and bounds of a filter, those of the filters within it included."""
MAX_DEPTH = 4
"""Maximum filters within one another."""
MIN_TIME, MAX_TIME = -62_135_596_800, 253_402_300_799
"""Unix seconds that a timestamp may hold, and that are written as a date: the years 1 to 9999."""

Violations = list[tuple[str, str]]
"""(field, what is wrong with it)."""


class BadFilterError(VireoError):
    """A filter that can't be applied; `violations` name each field and what is wrong with it."""

    def __init__(self, violations: Violations) -> None:
        """List what is wrong."""
        super().__init__("; ".join(f"{field}: {text}" for field, text in violations))
        self.violations = violations


@dataclass(frozen=True)
class Condition:
    """What must be true of one attribute. All of it must hold."""

    attribute: str
    any_of: tuple[str, ...] = ()
    """Labels, "attribute=value", of which the video has one at least, unless empty."""
    all_of: tuple[str, ...] = ()
    none_of: tuple[str, ...] = ()
    min: float | None = None
    max: float | None = None

    def holds(self, labels: Set[str], numbers: Mapping[str, float]) -> bool:
        """Return whether it holds for a video; see `FilterExpression.holds`."""
        if self.min is not None or self.max is not None:
            number = numbers.get(self.attribute, math.nan)  # which no comparison holds for
            low = -math.inf if self.min is None else self.min
            high = math.inf if self.max is None else self.max
            if not low <= number <= high:
                return False
        return (
            (not self.any_of or not labels.isdisjoint(self.any_of))
            and all(each in labels for each in self.all_of)
            and labels.isdisjoint(self.none_of)
        )

    def applies_to(self, declared: Declared) -> bool:
        """Return whether a release that declares these attributes can tell if it holds."""
        numbers = self.min is not None or self.max is not None
        labels = self.any_of or self.all_of or self.none_of
        return (not numbers or self.attribute in declared.numbers) and (
            not labels or self.attribute in declared.labels
        )


@dataclass(frozen=True)
class FilterExpression:
    """A conjunction: all of `conditions`, one of `any` unless it is empty, and none of `none`."""

    conditions: tuple[Condition, ...] = ()
    any: tuple[FilterExpression, ...] = ()
    none: tuple[FilterExpression, ...] = ()

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that stand for it: caches keep them instead of its texts, which may be long."""
        return hashlib.blake2b(repr(self).encode(), digest_size=16).digest()

    def holds(self, labels: Set[str], numbers: Mapping[str, float]) -> bool:
        """Return whether it holds for a video.

        Args:
            labels: the video's labels, each "attribute=value".
            numbers: its numbers by attribute; unknown ones are absent or NaN.
        """
        return (
            all(each.holds(labels, numbers) for each in self.conditions)
            and (not self.any or any(each.holds(labels, numbers) for each in self.any))
            and not any(each.holds(labels, numbers) for each in self.none)
        )

    def applies_to(self, declared: Declared) -> bool:
        """Return whether a release that declares these attributes can tell if it holds.

        A filter that was decoded without the release may name others, or compare labels as
        numbers. Videos have no such values, so that `holds` would be true of what must not have
        them.
        """
        return all(each.applies_to(declared) for each in self.conditions) and all(
            each.applies_to(declared) for each in (*self.any, *self.none)
        )


def all_of(expressions: Sequence[FilterExpression]) -> FilterExpression:
    """Return the filter that holds where each of some filters does, one at least."""
    if len(expressions) == 1:
        return expressions[0]
    return FilterExpression(none=tuple(FilterExpression(none=(each,)) for each in expressions))


def decode(message: filter_pb2.Filter, field: str, declared: Declared) -> FilterExpression:
    """Return what a filter says.

    Args:
        message: the filter, within the bounds that its proto states of each list and value.
        field: its path in the request, for violations.
        declared: the release's attributes.

    Raises:
        BadFilterError: it names an attribute that the release doesn't declare, compares numbers
            as labels or labels as numbers, has an empty filter or condition, exceeds MAX_TERMS or
            MAX_DEPTH, or has conditions that contradict each other.
    """
    decoder = _Decoder(declared)
    expression = decoder.filter(message, field, depth=1)
    if decoder.terms > MAX_TERMS:
        decoder.violations.append((field, f"must have at most {MAX_TERMS} values and bounds"))
    if decoder.violations:
        raise BadFilterError(decoder.violations)
    return expression


class _Decoder:
    """Decodes one filter, and collects what is wrong with it."""

    def __init__(self, declared: Declared) -> None:
        self.declared = declared
        self.terms = 0
        self.violations: Violations = []

    def filter(self, message: filter_pb2.Filter, field: str, depth: int) -> FilterExpression:
        if depth > MAX_DEPTH:
            self.violations.append((field, f"must be at most {MAX_DEPTH} filters deep"))
            return FilterExpression()
        if not (message.conditions or message.any or message.none):
            self.violations.append((field, "must have a condition"))
            self.terms += 1  # so that MAX_TERMS bounds the work on any message
        conditions = tuple(
            self.condition(each, f"{field}.conditions[{place}]")
            for place, each in enumerate(message.conditions)
        )
        self.violations += _contradictions(conditions, f"{field}.conditions")
        alternatives, forbidden = (
            tuple(
                self.filter(each, f"{field}.{name}[{place}]", depth + 1)
                for place, each in enumerate(filters)
                if self.terms <= MAX_TERMS  # else it is refused: no need to read on
            )
            for name, filters in (("any", message.any), ("none", message.none))
        )
        return FilterExpression(conditions, alternatives, forbidden)

    def condition(self, message: filter_pb2.Condition, field: str) -> Condition:
        name = message.attribute
        lists = {"any_of": message.any_of, "all_of": message.all_of, "none_of": message.none_of}
        bounds = {each: message.HasField(each) for each in ("min", "max")}
        asked = [each for each, values in lists.items() if values]
        asked += [each for each, given in bounds.items() if given]
        self.terms += sum(map(len, lists.values())) + sum(bounds.values())
        if not asked:
            self.violations.append((field, "must have values or a bound"))
            self.terms += 1
        known = (*self.declared.labels, *self.declared.numbers)
        if name not in known:
            text = f"the release declares no {name!r} but {', '.join(sorted(known))}"
            self.violations.append((f"{field}.attribute", text))
        elif name in self.declared.labels:
            for each in asked:
                if each in bounds:
                    text = f"{name} has labels: compare them by any_of, all_of and none_of"
                    self.violations.append((f"{field}.{each}", text))
        else:
            for each in asked:
                if each in lists:
                    text = f"{name} is a number: compare it by min and max"
                    self.violations.append((f"{field}.{each}", text))
        return Condition(
            name,
            **{each: tuple(label(name, value) for value in lists[each]) for each in lists},
            min=message.min if bounds["min"] else None,
            max=message.max if bounds["max"] else None,
        )


def _contradictions(conditions: Sequence[Condition], field: str) -> Violations:
    """Return which of some conditions, that must all hold, contradict those before or themselves.

    Conditions that no video happens to meet are no contradiction.
    """
    found: Violations = []
    before: defaultdict[str, list[Condition]] = defaultdict(list)
    for place, each in enumerate(conditions):
        same = before[each.attribute]
        same.append(each)
        where = f"{field}[{place}]"
        forbidden = {value for other in same for value in other.none_of}
        if not forbidden.isdisjoint(value for other in same for value in other.all_of):
            found.append((where, f"{each.attribute} must have a label and must not have it"))
        if any(other.any_of and forbidden.issuperset(other.any_of) for other in same):
            found.append((where, f"{each.attribute} must have none of all labels of any_of"))
        low = max((other.min for other in same if other.min is not None), default=-math.inf)
        high = min((other.max for other in same if other.max is not None), default=math.inf)
        if low > high:
            text = f"{each.attribute} must be at least {low:g} and at most {high:g}"
            found.append((where, text))
    return found


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
    if attribute == PUBLISHED and MIN_TIME <= number <= MAX_TIME:
        return datetime.fromtimestamp(number, UTC).isoformat(timespec="seconds")
    return f"{number:.10g}"


def _words(text: str) -> str:
    """Return "tag a=b" for the label "tag=a=b"."""
    attribute, _, value = text.partition("=")
    return f"{attribute} {value}"
