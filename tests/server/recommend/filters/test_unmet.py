"""Why a filter doesn't hold for a video."""

from __future__ import annotations

import math
import random

import pytest

from tests.builders.filters import condition, expression, message, random_expression
from vireo.server.recommend.filters.unmet import unmet
from vireo.v1 import filter_pb2

LABELS = {"tag=cat", "tag=a=b", "language=de"}
NUMBERS = {"age_rating": 16.0, "duration": 1234.5, "published": 86_400.0}


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        ([condition("tag", any_of=["cat"])], None),
        (
            [condition("language", any_of=["en", "fr"])],
            "its language is de, and must be en or fr",
        ),
        (
            [condition("tag", any_of=["fish"])],
            "its tag is a=b and cat, and must be fish",
        ),
        ([condition("creator", any_of=["c"])], "its creator is unknown, and must be c"),
        ([condition("tag", all_of=["cat", "dog"])], "it lacks the tag dog"),
        ([condition("tag", none_of=["dog", "a=b"])], "it has the tag a=b, which it must not have"),
        ([condition("age_rating", max=12)], "its age_rating is 16, and must be at most 12"),
        (
            [condition("duration", min=0.5, max=1200)],
            "its duration is 1234.5, and must be at least 0.5 and at most 1200",
        ),
        (
            [condition("published", min=2 * 86_400.0)],
            "its published is 1970-01-02T00:00:00+00:00, and must be at least "
            "1970-01-03T00:00:00+00:00",
        ),
        (
            [condition("published", min=1e300)],
            "its published is 1970-01-02T00:00:00+00:00, and must be at least 1e+300",
        ),
        (
            [condition("published", max=-62_135_596_800)],
            "its published is 1970-01-02T00:00:00+00:00, and must be at most "
            "0001-01-01T00:00:00+00:00",
        ),
        (
            [condition("published", max=-1e11)],
            "its published is 1970-01-02T00:00:00+00:00, and must be at most -1e+11",
        ),
        # The first that isn't met.
        (
            [condition("tag", all_of=["cat"]), condition("duration", max=1)],
            "its duration is 1234.5, and must be at most 1",
        ),
    ],
)
def test_the_first_condition_that_is_not_met_is_told(
    conditions: list[filter_pb2.Condition], words: str | None
) -> None:
    told = unmet(expression(*conditions), LABELS, NUMBERS)
    assert told == words


def test_alternatives_and_forbidden_filters_are_told_by_their_place() -> None:
    dog, fish = (message(condition("tag", any_of=[each])) for each in ("dog", "fish"))
    cat = message(condition("tag", any_of=["cat"]))
    assert unmet(expression(any=[dog]), LABELS, NUMBERS) == (
        "its tag is a=b and cat, and must be dog"
    )
    assert unmet(expression(any=[dog, fish]), LABELS, NUMBERS) == (
        "it meets none of 2 alternatives, of the first since its tag is a=b and cat, and must be "
        "dog"
    )
    assert unmet(expression(any=[dog, cat]), LABELS, NUMBERS) is None
    assert unmet(expression(none=[dog, cat]), LABELS, NUMBERS) == (
        "it meets none[1], which it must not meet"
    )


def test_something_is_told_of_every_filter_that_does_not_hold_and_of_no_other() -> None:
    draw = random.Random(7)
    values = {"tag": ["cat", "dog", "fish"], "language": ["de", "en"]}
    numbers = {"age_rating": [0.0, 12.0, 18.0], "duration": [1.0, 60.0]}
    for _ in range(2000):
        _, asked = random_expression(draw, values, numbers)
        labels = {
            f"{name}={value}"
            for name, each in values.items()
            for value in each
            if draw.random() < 0.5
        }
        mine = {name: draw.choice([*each, math.nan]) for name, each in numbers.items()}
        assert (unmet(asked, labels, mine) is None) == asked.holds(labels, mine)
