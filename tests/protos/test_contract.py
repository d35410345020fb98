"""The bounds that the protos declare are the ones that callers meet."""

from __future__ import annotations

import protovalidate
import pytest
from google.protobuf.message import Message

from vireo.v1 import recommendation_pb2


def violated(message: Message) -> set[str]:
    """Names of the fields, or ids of the rules without one field, that `message` violates."""
    found = protovalidate.collect_violations(message)
    return {
        ".".join(element.field_name for element in violation.proto.field.elements)
        if violation.proto.field
        else violation.proto.rule_id
        for violation in found
    }


def request(**fields: object) -> recommendation_pb2.RecommendRequest:
    return recommendation_pb2.RecommendRequest(**{"viewer_id": "1", **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("viewer_id", ["0", "007", "x" * 128, "é" * 64, "a/b c%"])
def test_any_text_of_1_to_128_bytes_is_a_viewer_id(viewer_id: str) -> None:
    assert violated(request(viewer_id=viewer_id)) == set()


@pytest.mark.parametrize("viewer_id", ["", "x" * 129, "é" * 65])
def test_ids_are_bounded_in_bytes_not_characters(viewer_id: str) -> None:
    assert violated(request(viewer_id=viewer_id)) == {"viewer_id"}


@pytest.mark.parametrize("size", [0, -1, 501, 2**31 - 1])
def test_page_sizes_outside_1_to_500_are_refused(size: int) -> None:
    assert violated(request(page_size=size)) == {"page_size"}


@pytest.mark.parametrize("size", [1, 500])
def test_page_sizes_of_1_and_500_are_fine_and_none_is_too(size: int) -> None:
    assert violated(request(page_size=size)) == set()
    assert violated(request()) == set()


def test_every_violation_is_reported_at_once() -> None:
    bad = request(viewer_id="", page_size=0, excluded_video_ids=["", "ok"], surface=99)
    assert violated(bad) == {"viewer_id", "page_size", "excluded_video_ids", "surface"}


def test_up_next_needs_the_video_that_is_playing() -> None:
    up_next = recommendation_pb2.SURFACE_UP_NEXT
    assert violated(request(surface=up_next)) == {"seed_video_id.required_for_up_next"}
    assert violated(request(surface=up_next, seed_video_id="5")) == set()


def test_too_many_exclusions_are_refused() -> None:
    assert violated(request(excluded_video_ids=["v"] * 1000)) == set()
    assert violated(request(excluded_video_ids=["v"] * 1001)) == {"excluded_video_ids"}
