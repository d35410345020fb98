"""The client's fake stack, and its requests as messages of the server's own stubs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import pytest
from google.protobuf.message import Message

from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2
from vireo_client.testing import FakeStack

M = TypeVar("M", bound=Message)

EXPLANATION = pb.ExplainVideoResponse(
    lost_at=pb.LOST_AT_RETRIEVAL,
    reason="No source proposed it: two_tower ranked it 812th and proposed 450.",
    source_ranks=[pb.SourceRank(source=viewer_pb2.SOURCE_TWO_TOWER, rank=812, proposed=450)],
    retrieval_scores=[pb.NamedValue(name="two_tower", value=0.5)],
    score=0.25,
    score_factor=1,
    task_scores=pb.TaskScores(watch=0.25, like=0.5),
    task_weights=[pb.NamedValue(name="watch", value=1)],
    ranking_features=[pb.NamedValue(name="content_match", value=0.125)],
    candidates=450,
    release_id="r",
    request_id="id",
)


@pytest.fixture
def stack() -> Iterator[FakeStack]:
    with FakeStack() as stack:
        yield stack


def asked(stack: FakeStack, kind: type[M]) -> list[M]:
    """Return the requests of a kind that came, in order."""
    return [
        kind.FromString(each.SerializeToString())
        for each in stack.requests
        if each.DESCRIPTOR.full_name == kind.DESCRIPTOR.full_name
    ]
