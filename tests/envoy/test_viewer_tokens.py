"""For which viewers the edge takes a token, and whom it knows a caller as."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import grpc.aio
import pytest

from tests.builders.certificates import serial, shown_serial
from tests.builders.edge import running_edge
from tests.builders.recording import batch, play
from tests.builders.tokens import Tokens
from tests.envoy.conftest import SCOPES, Guarded, bearer
from vireo.server.rpc.tls import open_channel
from vireo.server.security.certificates import Certificates
from vireo.server.security.folder import SecurityFolder
from vireo.server.security.tokens import TokenSigner
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.candidate_pb2 import RetrieveCandidatesRequest
from vireo.v1.candidate_pb2_grpc import CandidateServiceStub
from vireo.v1.catalog_pb2 import RemoveVideosRequest
from vireo.v1.catalog_pb2_grpc import CatalogServiceStub
from vireo.v1.event_pb2 import StreamEventsRequest
from vireo.v1.event_pb2_grpc import EventServiceStub
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub
from vireo.v1.viewer_pb2 import ViewerFeatures

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

VIEWER = "a/b é%2F"
OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED


def codes_of(address: str, token: str, viewer: str, *more: tuple[str, str]) -> dict[str, Any]:
    """The status of each method for a viewer, all requests with this token; those with lists have
    `VIEWER`, too. Without a log, events that are let in are UNIMPLEMENTED."""
    request = pb.RecommendRequest(viewer_id=viewer)
    both = [play("1", VIEWER), play("2", viewer)]
    with grpc.insecure_channel(address) as channel:
        slates, recorder = RecommendationServiceStub(channel), EventServiceStub(channel)
        catalog = CatalogServiceStub(channel)
        calls: dict[str, Callable[..., Any]] = {
            "Recommend": lambda **call: slates.Recommend(request, **call),
            "ExplainVideo": lambda **call: slates.ExplainVideo(
                pb.ExplainVideoRequest(request=request, video_id="v"), **call
            ),
            "BatchRecommend": lambda **call: list(
                slates.BatchRecommend(
                    pb.BatchRecommendRequest(viewer_ids=dict.fromkeys([VIEWER, viewer])), **call
                )
            ),
            "SimilarVideos": lambda **call: slates.SimilarVideos(
                pb.SimilarVideosRequest(video_id="v"), **call
            ),
            "RecordEvents": lambda **call: recorder.RecordEvents(batch(both), **call),
            "StreamEvents": lambda **call: recorder.StreamEvents(
                iter([StreamEventsRequest(events=both)]), **call
            ),
            "RemoveVideos": lambda **call: catalog.RemoveVideos(
                RemoveVideosRequest(video_ids=["v"]), **call
            ),
        }
        found: dict[str, Any] = {}
        for name, call in calls.items():
            try:
                call(metadata=(*bearer(token), *more), timeout=30)
            except grpc.RpcError as error:
                found[name] = error.code()
            else:
                found[name] = OK
        return found


async def test_a_token_that_names_its_viewer_is_for_requests_and_events_of_no_other(
    guarded: Guarded,
) -> None:
    token = guarded.tokens.good(*SCOPES, subject="viewer", more={"vireo_viewer": VIEWER})
    let_in = grpc.StatusCode.UNIMPLEMENTED
    address = guarded.edge.address
    assert await asyncio.to_thread(codes_of, address, token, VIEWER) == {
        "Recommend": OK,
        "ExplainVideo": OK,
        "BatchRecommend": OK,
        "SimilarVideos": OK,
        "RecordEvents": let_in,
        "StreamEvents": let_in,
        "RemoveVideos": DENIED,
    }
    forged = ("x-vireo-viewer", "2")
    assert await asyncio.to_thread(codes_of, address, token, "2", forged) == {
        "Recommend": DENIED,
        "ExplainVideo": DENIED,
        "BatchRecommend": DENIED,
        "SimilarVideos": OK,
        "RecordEvents": DENIED,
        "StreamEvents": DENIED,
        "RemoveVideos": DENIED,
    }
    path = "/v1/viewers/{}/recommendations"
    assert (await guarded.rest(token, path.format(quote(VIEWER, safe="")))).status == 200
    answer = await guarded.rest(token, path.format("2"))
    assert (answer.status, answer.json["code"]) == (403, 7)
    assert "one viewer" in answer.json["message"]
    body = {"viewerIds": [VIEWER, "2"]}
    answer = await guarded.rest(token, "/v1/recommendations:batch", json.dumps(body))
    assert (answer.status, answer.json["code"]) == (403, 7), "before the first line"


async def test_a_token_without_a_viewer_is_for_all_and_none_can_be_forged(
    guarded: Guarded,
) -> None:
    token = guarded.tokens.good(*SCOPES, subject="backend")
    assert await guarded.code(guarded.tokens.without_a_subject()) is OK
    forged = ("x-vireo-viewer", "2")
    codes = await asyncio.to_thread(codes_of, guarded.edge.address, token, "1", forged)
    assert DENIED not in codes.values()


@pytest.mark.parametrize("named", ["", 1, True, ["1"], {"1": "1"}, "1" * 129, "1\0", "1 "])
async def test_a_token_whose_viewer_isnt_that_of_a_request_is_denied(
    guarded: Guarded, named: Any
) -> None:
    token = guarded.tokens.good(subject=f"{named}"[:9], more={"vireo_viewer": named})
    assert await guarded.code(token) is DENIED


async def test_with_the_subject_as_the_viewer_every_token_is_for_one(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = SecurityFolder(tmp_path_factory.mktemp("security"))
    TokenSigner(folder).ensure()
    control = {"jwks": str(folder.jwks), "viewer_claim": "sub"}
    async with (
        running_edge(tmp_path_factory.mktemp("edge"), 1, control=control) as edge,
        grpc.aio.insecure_channel(edge.address) as channel,
    ):
        guarded = Guarded(edge, channel, Tokens(folder))
        assert await guarded.code(guarded.tokens.good(subject="1")) is OK
        others = [guarded.tokens.good(subject=subject) for subject in ("2", "")]
        for token in (*others, guarded.tokens.without_a_subject()):
            assert await guarded.code(token) is DENIED
        assert (await edge.rest("/ready")).status == 200, "load balancers have no token"


async def test_an_inner_listener_is_open_to_gateways_alone_and_new_certificates_are_taken_up(
    tmp_path: Path,
) -> None:
    async with running_edge(tmp_path, 1, secure=True) as edge:

        async def code(role: str) -> grpc.StatusCode:
            target = f"127.0.0.1:{edge.settings.candidate_port}"
            async with open_channel(target, edge.settings.security.tls(role), "envoy") as channel:
                request = RetrieveCandidatesRequest(viewer=ViewerFeatures(), count=1)
                return await CandidateServiceStub(channel).RetrieveCandidates(request).code()

        refused = f"listener.127.0.0.1_{edge.settings.candidate_port}.ssl.fail_verify_san"
        assert await code("gateway") is OK
        before = await edge.stat(refused)
        assert await code("control") is grpc.StatusCode.UNAVAILABLE
        assert await edge.stat(refused) > before

        settings = edge.settings
        Certificates(settings.security).renew([])
        operator = settings.security.tls("operator")
        for role, port in (
            ("edge", settings.edge_port),
            ("envoy", settings.candidate_port),
            ("candidate", settings.candidate_pod_port),
            ("control", settings.control_port),
        ):
            wanted = serial(settings.security.tls(role))
            async with asyncio.timeout(30):
                while await asyncio.to_thread(shown_serial, port, role, operator) != wanted:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        assert await code("gateway") is OK
