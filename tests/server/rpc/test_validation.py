"""The rules of requests on the API and the inner hops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import protovalidate
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from tests.builders.columns import score_columns
from vireo.server.rpc.errors import RpcError
from vireo.server.rpc.validation import MAX_NESTED_BYTES, validate
from vireo.v1 import (
    candidate_pb2,
    event_pb2,
    filter_pb2,
    ranking_pb2,
    recommendation_pb2,
    viewer_pb2,
)

Change = Callable[[Any], object]


def viewer() -> viewer_pb2.ViewerFeatures:
    return viewer_pb2.ViewerFeatures(
        history_keys=[1, 2],
        history_times=[3, 4],
        watched_keys=[1, 2],
        attributes=["occupation=artist"],
        watch_count=2,
        like_count=1,
    )


def recommend() -> recommendation_pb2.RecommendRequest:
    return recommendation_pb2.RecommendRequest(viewer_id="1", excluded_video_ids=["video-1"])


def retrieve() -> candidate_pb2.RetrieveCandidatesRequest:
    return candidate_pb2.RetrieveCandidatesRequest(viewer=viewer(), count=300)


def rank() -> ranking_pb2.RankCandidatesRequest:
    return ranking_pb2.RankCandidatesRequest(
        viewer=viewer(),
        keys=[1, 2],
        scores=score_columns([0.5, 0.25]),
        source_masks=[2, 2],
        page_size=10,
    )


VALID: list[tuple[Callable[[], Message], Change]] = [
    (recommend, lambda _: None),
    (recommend, lambda asked: setattr(asked, "page_size", 500)),
    (recommend, lambda asked: setattr(asked, "viewer_id", "é" * 64)),
    (recommend, lambda asked: asked.excluded_video_ids.extend(["x" * 128] * 999)),
    (retrieve, lambda _: None),
    (retrieve, lambda asked: asked.viewer.Clear() or asked.viewer.SetInParent()),
    (rank, lambda _: None),
]

INVALID: list[tuple[Callable[[], Message], Change]] = [
    (recommend, lambda asked: asked.ClearField("viewer_id")),
    (recommend, lambda asked: setattr(asked, "viewer_id", "é" * 65)),
    (recommend, lambda asked: setattr(asked, "page_size", 0)),
    (recommend, lambda asked: setattr(asked, "surface", 7)),
    (recommend, lambda asked: asked.excluded_video_ids.append("")),
    (recommend, lambda asked: asked.excluded_video_ids.extend(["x"] * 1000)),
    (retrieve, lambda asked: asked.ClearField("viewer")),
    (retrieve, lambda asked: setattr(asked, "count", 2001)),
    (retrieve, lambda asked: asked.excluded_keys.extend(range(3502))),
    (retrieve, lambda asked: setattr(asked.viewer, "watch_count", -1)),
    (retrieve, lambda asked: asked.viewer.attributes.append("x" * 257)),
    (retrieve, lambda asked: asked.viewer.watched_keys.extend(range(10_000))),
    (rank, lambda asked: asked.ClearField("viewer")),
    (rank, lambda asked: asked.scores[0].values.extend([0] * 1999)),
    (rank, lambda asked: asked.scores[1].ClearField("name")),
    (rank, lambda asked: asked.scores.extend(list(asked.scores) * 21)),
]


@pytest.mark.parametrize(("make", "change"), VALID)
def test_a_request_that_keeps_the_rules_is_accepted(
    make: Callable[[], Message], change: Change
) -> None:
    request = make()
    change(request)
    validate(request)


@pytest.mark.parametrize(("make", "change"), INVALID)
def test_a_request_that_breaks_a_rule_is_rejected(
    make: Callable[[], Message], change: Change
) -> None:
    request = make()
    change(request)
    with pytest.raises(RpcError) as raised:
        validate(request)
    assert raised.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_the_items_of_a_list_that_is_too_long_are_not_checked_however_small_they_are() -> None:
    request = recommend()
    request.excluded_video_ids.extend([""] * 8000)
    with pytest.raises(RpcError, match=r"^excluded_video_ids: must contain no more than 1000"):
        validate(request)


def filter_of(levels: int, width: int) -> filter_pb2.Filter:
    """Filters within filters, each with some conditions of its own."""
    made = filter_pb2.Filter()
    made.conditions.add(attribute="tag", any_of=["x"])
    for _ in range(width if levels > 1 else 0):
        made.any.append(filter_of(levels - 1, width))
    return made


def test_a_filter_of_the_most_terms_is_within_the_bound_of_its_bytes() -> None:
    asked = recommend()
    for _ in range(16):
        inner = asked.filter.any.add().none.add().any.add()
        for _ in range(4):
            inner.conditions.add(attribute="a" * 64, any_of=["x" * 128])
    assert asked.filter.ByteSize() < MAX_NESTED_BYTES
    validate(asked)


def test_a_filter_of_many_filters_is_refused_by_its_size_before_its_parts_are_checked() -> None:
    asked = recommend()
    asked.filter.CopyFrom(filter_of(levels=4, width=12))
    asked.filter.conditions.add()  # which has no name
    with pytest.raises(RpcError) as raised:
        validate(asked)
    assert raised.value.message == "filter: must have no more than 16,384 bytes"


@pytest.mark.parametrize("place", [0, 16, 999])
def test_of_a_long_list_of_invalid_items_only_the_first_is_named_by_its_place(
    place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[object] = []

    def collect(message: Message, *, fail_fast: bool = False) -> list[Any]:
        violations = every(message, fail_fast=fail_fast)
        found.extend(violations)
        return violations

    every = protovalidate.collect_violations
    monkeypatch.setattr(protovalidate, "collect_violations", collect)
    good = event_pb2.Event(event_id="1", viewer_id="v", kind=event_pb2.EVENT_KIND_PLAY)
    bad = event_pb2.Event(viewer_id="v", kind=event_pb2.EVENT_KIND_PLAY)
    events = [good] * place + [bad] * (1000 - place)
    with pytest.raises(RpcError, match=rf"^events\[{place}\]\.event_id: ") as refused:
        validate(event_pb2.RecordEventsRequest(events=events))
    [details] = refused.value.details
    assert isinstance(details, error_details_pb2.BadRequest)
    assert (len(details.field_violations), len(found)) == (1, 1)
