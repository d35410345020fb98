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


UP_NEXT = recommendation_pb2.SURFACE_UP_NEXT
UNFIT = [
    *(("viewer_id", {"viewer_id": each}) for each in ("", "x" * 129, "é" * 65)),
    *(("page_size", {"page_size": each}) for each in (0, -1, 501, 2**31 - 1)),
    ("excluded_video_ids", {"excluded_video_ids": ["v"] * 1001}),
    ("seed_video_id.required_for_up_next", {"surface": UP_NEXT}),
]
"""What is violated, and by which fields; ids are bounded in bytes, not characters."""


@pytest.mark.parametrize(("rule", "fields"), UNFIT)
def test_what_is_out_of_bounds_is_named(rule: str, fields: dict[str, object]) -> None:
    assert violated(request(**fields)) == {rule}
