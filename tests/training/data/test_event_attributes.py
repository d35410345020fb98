"""Attributes of videos that come from the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from vireo.training.data.event_attributes import LEFT_OUT, attribute_kinds, attribute_values
from vireo.v1.catalog_pb2 import Video, VideoAttribute


def labels(name: str, *values: str) -> VideoAttribute:
    return VideoAttribute(name=name, labels=values)


def number(name: str, value: float) -> VideoAttribute:
    return VideoAttribute(name=name, number=value)


def videos(*attributes: Sequence[VideoAttribute]) -> list[Video]:
    return [Video(video_id=f"v{place}", attributes=each) for place, each in enumerate(attributes)]


def test_attributes_have_the_kind_that_the_base_or_most_videos_give_them() -> None:
    found = attribute_kinds(
        {"age": "number"},
        videos(
            [labels("age", "old"), labels("language", "de"), number("score", 1)],
            [labels("age", "old"), number("language", 1), number("score", 2)],
            [labels("language", "en"), labels("No name", "x")],
        ),
    )
    assert found == {"age": "number", "language": "labels", "score": "number"}


def test_beyond_sixteen_those_that_most_videos_have_are_declared() -> None:
    every = [labels(f"rare{place}", "x") for place in range(20)]
    found = attribute_kinds({"base": "labels"}, videos(every, every[10:], [labels("common", "x")]))
    assert len(found) == 16
    assert next(iter(found)) == "base"
    assert {f"rare{place}" for place in range(10, 20)} <= found.keys()


def test_values_of_another_kind_are_left_out_and_counted() -> None:
    notes = Counter[str]()
    each = [labels("a", "x", "y", "x"), number("b", 0.0), number("c", 1), labels("d", "x")]
    (video,) = videos([*each, number("e", float("inf"))])
    kinds = attribute_kinds({"a": "labels", "b": "number", "c": "labels", "e": "number"}, [])
    assert attribute_values(video, kinds, notes) == {"attribute.a": ["x", "y"], "attribute.b": 0.0}
    assert notes == {LEFT_OUT: 2}
