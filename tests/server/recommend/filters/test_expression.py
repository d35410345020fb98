"""Filters: which are refused, and what they say of a video."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders.attributes import DECLARED
from tests.builders.filters import condition, expression, message, random_expression
from vireo.server.recommend.filters.declared import Declared
from vireo.server.recommend.filters.expression import BadFilterError, decode, unmet
from vireo.v1 import filter_pb2

LABELS = {
    "tag": ["news", "pets", "sport", "=", "Pets"],
    "creator": ["ann", "bob"],
    "language": ["de", "en"],
}
NUMBERS = {"duration": [0.0, 60.0, 600.0], "published": [-1.0, 1e9, 2e9]}


def refused(asked: filter_pb2.Filter, declared: Declared = DECLARED) -> dict[str, str]:
    """Return what is wrong with each field of a filter that is refused."""
    with pytest.raises(BadFilterError) as refusal:
        decode(asked, "filter", declared)
    return dict(refusal.value.violations)


@pytest.mark.parametrize(
    ("asked", "kinds"),
    [
        (message(condition("language", none_of=["de"])), {"labels": ("language",)}),
        (message(none=[message(condition("rating", min=16))]), {"numbers": ("rating",)}),
        (
            message(any=[message(none=[message(condition("mood", all_of=["a"]))])]),
            {"labels": ("mood",)},
        ),
    ],
)
def test_a_filter_applies_to_releases_that_declare_what_it_names(
    asked: filter_pb2.Filter, kinds: dict[str, tuple[str, ...]]
) -> None:
    found = decode(asked, "", Declared(**kinds))
    labels, numbers = kinds.get("labels", ()), kinds.get("numbers", ())
    assert found.applies_to(Declared(**kinds))
    assert not found.applies_to(Declared())
    assert not found.applies_to(Declared(labels=numbers, numbers=labels))


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (message(), "filter"),
        (message(condition("tag")), "filter.conditions[0]"),
        (message(condition("genre", any_of=["a"])), "filter.conditions[0].attribute"),
        (message(condition("tag", min=1)), "filter.conditions[0].min"),
        (message(condition("duration", any_of=["1"])), "filter.conditions[0].any_of"),
        (message(condition("duration", min=0, none_of=["1"])), "filter.conditions[0].none_of"),
        (message(condition("duration", min=2, max=1)), "filter.conditions[0]"),
        (
            message(condition("duration", min=2), condition("duration", max=1)),
            "filter.conditions[1]",
        ),
        (message(condition("tag", all_of=["a"], none_of=["a"])), "filter.conditions[0]"),
        (message(condition("tag", any_of=["a"], none_of=["a", "b"])), "filter.conditions[0]"),
        (
            message(condition("tag", any_of=["a"]), condition("tag", none_of=["a"])),
            "filter.conditions[1]",
        ),
        (
            message(condition("tag", none_of=["a"]), condition("tag", all_of=["a"])),
            "filter.conditions[1]",
        ),
        (message(none=[message()]), "filter.none[0]"),
        (message(any=[message(condition("x", min=1))]), "filter.any[0].conditions[0].attribute"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused_by_its_field(
    asked: filter_pb2.Filter, field: str
) -> None:
    assert [*refused(asked)] == [field]


def test_a_refusal_names_the_attributes_that_there_are() -> None:
    [text] = refused(message(condition("genre", any_of=["a"])), Declared()).values()

    assert text == "the release declares no 'genre' but creator, duration, published, tag"


def test_conditions_that_leave_something_are_no_contradiction() -> None:
    for asked in (
        message(condition("tag", any_of=["a", "b"], none_of=["a"])),
        message(condition("tag", any_of=["a"]), condition("tag", any_of=["b"])),
        message(condition("duration", min=1, max=1)),
        message(condition("tag", all_of=["a"]), condition("creator", none_of=["a"])),
        message(condition("tag", all_of=["a"]), any=[message(condition("tag", none_of=["a"]))]),
    ):
        decode(asked, "filter", DECLARED)


def test_more_than_64_values_and_bounds_are_refused() -> None:
    bounds = condition("duration", min=0, max=1)
    values = [str(each) for each in range(31)]
    inner = message(condition("tag", any_of=values))
    decode(message(bounds, any=[inner, inner]), "filter", DECLARED)
    wider = message(condition("tag", any_of=[*values, "one more"]))

    assert [*refused(message(bounds, any=[inner], none=[wider]))] == ["filter"]


def test_more_than_4_filters_within_one_another_are_refused() -> None:
    asked = message(condition("tag", any_of=["a"]))
    for _ in range(3):
        asked = message(any=[asked])
    decode(asked, "filter", DECLARED)

    assert [*refused(message(none=[asked]))] == ["filter.none[0].any[0].any[0].any[0]"]


def test_a_huge_filter_is_refused_with_few_words() -> None:
    empty = message()
    for _ in range(3):
        empty = message(any=[empty] * 16, none=[empty] * 16)

    assert len(refused(empty)) < 200


def said(asked: filter_pb2.Filter, labels: set[str], numbers: dict[str, float]) -> bool:
    """Evaluate a filter word by word, as its proto puts it."""

    def met(each: filter_pb2.Condition) -> bool:
        mine = {text.partition("=")[2] for text in labels if text.startswith(f"{each.attribute}=")}
        number = numbers.get(each.attribute, math.nan)
        terms = [value not in mine for value in each.none_of]
        terms += [value in mine for value in each.all_of]
        if each.any_of:
            terms.append(any(value in mine for value in each.any_of))
        if each.HasField("min"):
            terms.append(number >= each.min)
        if each.HasField("max"):
            terms.append(number <= each.max)
        return all(terms)

    return (
        all(map(met, asked.conditions))
        and (not asked.any or any(said(each, labels, numbers) for each in asked.any))
        and all(not said(each, labels, numbers) for each in asked.none)
    )


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 32))
def test_any_filter_holds_for_the_videos_that_its_proto_says(seed: int) -> None:
    draw = random.Random(seed)
    asked, expressed = random_expression(draw, LABELS, NUMBERS)
    for _ in range(8):
        labels = {
            f"{name}={value}"
            for name, values in LABELS.items()
            for value in values
            if draw.random() < 0.4
        }
        numbers = {
            name: draw.choice([*values, math.nan])
            for name, values in NUMBERS.items()
            if draw.random() < 0.7
        }
        held = expressed.holds(labels, numbers)
        assert held is said(asked, labels, numbers)
        assert (unmet(expressed, labels, numbers) is None) is held


MINE = (
    {"tag=cat", "tag=a=b", "language=de"},
    {"age_rating": 16.0, "duration": 1234.5, "published": 86_400.0},
)


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        ([condition("tag", any_of=["cat"])], None),
        ([condition("language", any_of=["en", "fr"])], "its language is de, and must be en or fr"),
        ([condition("tag", any_of=["fish"])], "its tag is a=b and cat, and must be fish"),
        ([condition("creator", any_of=["c"])], "its creator is unknown, and must be c"),
        ([condition("tag", all_of=["cat", "dog"])], "it lacks the tag dog"),
        ([condition("tag", none_of=["dog", "a=b"])], "it has the tag a=b, which it must not have"),
        ([condition("age_rating", max=12)], "its age_rating is 16, and must be at most 12"),
        (
            [condition("duration", min=0.5, max=1200)],
            "its duration is 1234.5, and must be at least 0.5 and at most 1200",
        ),
        (
            [condition("published", min=1e300)],
            "its published is 1970-01-02T00:00:00+00:00, and must be at least 1e+300",
        ),
        (
            [condition("tag", all_of=["cat"]), condition("duration", max=1)],
            "its duration is 1234.5, and must be at most 1",
        ),
    ],
)
def test_the_first_condition_that_is_not_met_is_told(
    conditions: list[filter_pb2.Condition], words: str | None
) -> None:
    assert unmet(expression(*conditions), *MINE) == words


def test_alternatives_and_forbidden_filters_are_told_by_their_place() -> None:
    cat, dog, fish = (message(condition("tag", any_of=[each])) for each in ("cat", "dog", "fish"))
    not_a_dog = "its tag is a=b and cat, and must be dog"
    assert unmet(expression(any=[dog]), *MINE) == not_a_dog
    assert unmet(expression(any=[dog, fish]), *MINE) == (
        f"it meets none of 2 alternatives, of the first since {not_a_dog}"
    )
    assert unmet(expression(none=[dog, cat]), *MINE) == "it meets none[1], which it must not meet"
