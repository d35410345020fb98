"""What a caller gets for a request that can't be right, by gRPC and by REST, through Envoy."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import grpc
import pytest
import urllib3
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tests.builders.stack import Stack
from tests.builders.waiting import wait_until
from vireo.v1 import recommendation_pb2, recommendation_pb2_grpc

SECONDS = 20.0
"""For a call: of a busy machine."""

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no viewer": ({"viewer_id": ""}, "viewer_id"),
    "viewer over 128 bytes": ({"viewer_id": "é" * 65}, "viewer_id"),
    "page of 0": ({"viewer_id": "1", "page_size": 0}, "page_size"),
    "page of 501": ({"viewer_id": "1", "page_size": 501}, "page_size"),
    "1,001 exclusions": (
        {"viewer_id": "1", "excluded_video_ids": ["v"] * 1001},
        "excluded_video_ids",
    ),
    "empty exclusion": ({"viewer_id": "1", "excluded_video_ids": [""]}, "excluded_video_ids[0]"),
    "up next without seed": ({"viewer_id": "1", "surface": 2}, "seed_video_id"),
}


@pytest.fixture(scope="module")
def stub(stack: Stack) -> recommendation_pb2_grpc.RecommendationServiceStub:
    return recommendation_pb2_grpc.RecommendationServiceStub(grpc.insecure_channel(stack.edge))


@pytest.mark.parametrize("name", BAD)
def test_grpc_names_the_field(
    stub: recommendation_pb2_grpc.RecommendationServiceStub, name: str
) -> None:
    fields, violated = BAD[name]
    with pytest.raises(grpc.RpcError) as caught:
        stub.Recommend(recommendation_pb2.RecommendRequest(**fields), timeout=SECONDS)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    status = rpc_status.from_call(caught.value)  # type: ignore[no-untyped-call]
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    assert violated in {violation.field for violation in bad.field_violations}


@pytest.mark.parametrize("name", BAD)
def test_rest_answers_400_with_the_same_details(stack: Stack, name: str) -> None:
    fields, violated = BAD[name]
    answer = urllib3.request("POST", f"http://{stack.edge}/v1/recommendations", json=fields)
    assert answer.status == 400, answer.data
    violations = [
        violation["field"]
        for detail in answer.json()["details"]
        for violation in detail.get("fieldViolations", [])
    ]
    assert violated in violations, answer.data


def test_a_wrong_type_in_rest_is_400_and_names_the_field(stack: Stack) -> None:
    url = f"http://{stack.edge}/v1/viewers/1/recommendations?page_size=many"
    answer = urllib3.request("GET", url)
    assert answer.status == 400
    assert "page_size" in answer.data.decode()


def test_a_path_that_is_not_mapped_is_404_in_json(stack: Stack) -> None:
    answer = urllib3.request("GET", f"http://{stack.edge}/v1/nothing")
    assert answer.status == 404
    json.loads(answer.data)


def test_bytes_that_are_no_request_are_invalid_not_a_crash(stack: Stack) -> None:
    with grpc.insecure_channel(stack.edge) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/vireo.v1.RecommendationService/Recommend"
        )
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff\xff\xff", timeout=SECONDS)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_an_unknown_seed_video_is_not_found(
    stub: recommendation_pb2_grpc.RecommendationServiceStub,
) -> None:
    request = recommendation_pb2.RecommendRequest(
        viewer_id="1", surface=recommendation_pb2.SURFACE_UP_NEXT, seed_video_id="no such video"
    )
    with pytest.raises(grpc.RpcError) as caught:
        stub.Recommend(request, timeout=SECONDS)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("viewer_id", ["nobody", "0", "a/b c%", "日本", ".."])
def test_an_unknown_viewer_gets_a_full_slate(
    stack: Stack, stub: recommendation_pb2_grpc.RecommendationServiceStub, viewer_id: str
) -> None:
    request = recommendation_pb2.RecommendRequest(viewer_id=viewer_id, page_size=20)
    # Until the consumer has started, features may lack events, and slates say so.
    wait_until(lambda: not stub.Recommend(request, timeout=SECONDS).degradations)
    response = stub.Recommend(request, timeout=SECONDS)
    assert len(response.items) == 20
    assert not response.degradations
    url = f"http://{stack.edge}/v1/viewers/{quote(viewer_id, safe='')}/recommendations?page_size=20"
    if viewer_id != "..":  # URL clients resolve it before they send it.
        rest = urllib3.request("GET", url).json()
        assert [item["videoId"] for item in rest["items"]] == [
            item.video_id for item in response.items
        ]
