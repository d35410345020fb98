"""REST at the edge: what becomes of paths, parameters, bodies and headers, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from protos.generate import OPENAPI
from tests.builders.edge import Edge
from vireo.server.gateway.page_token import MAX_SHOWN, next_page_token
from vireo.v1 import filter_pb2
from vireo.v1 import recommendation_pb2 as pb

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

SLATES = "/v1/viewers/1/recommendations"
BY_BODY = "/v1/recommendations"
BATCH = "/v1/recommendations:batch"
FILTER = filter_pb2.Filter(
    conditions=[filter_pb2.Condition(attribute="duration", max=600.5)],
    none=[filter_pb2.Filter(conditions=[filter_pb2.Condition(attribute="tag", any_of=["a", "b"])])],
)
FILTER_JSON = {
    "conditions": [{"attribute": "duration", "max": 600.5}],
    "none": [{"conditions": [{"attribute": "tag", "any_of": ["a", "b"]}]}],
}
MAX_LENGTH_TOKEN = next_page_token(
    pb.RecommendRequest(viewer_id="1"), (), map(str, range(MAX_SHOWN))
)
MANY = [f"{number:0128}" for number in range(390)]
LARGEST = ["\u0001" * 125 + f"{number:03}" for number in range(1000)]

REQUESTS: dict[str, tuple[str, Any, pb.RecommendRequest]] = {
    "parameters": (
        f"{SLATES}?page_size=7&surface=SURFACE_UP_NEXT&seed_video_id=s"
        "&excluded_video_ids=a&excluded_video_ids=b&explain=true&context.device=tv",
        None,
        pb.RecommendRequest(
            viewer_id="1",
            page_size=7,
            surface=pb.SURFACE_UP_NEXT,
            seed_video_id="s",
            excluded_video_ids=["a", "b"],
            explain=True,
            context=pb.RequestContext(device="tv"),
        ),
    ),
    "no parameter": (f"{SLATES}?", None, pb.RecommendRequest(viewer_id="1")),
    "an empty parameter": (f"{SLATES}?&", None, pb.RecommendRequest(viewer_id="1")),
    "a parameter without a name": (f"{SLATES}?=", None, pb.RecommendRequest(viewer_id="1")),
    "60 KiB of parameters": (
        f"{SLATES}?{'&'.join(f'excluded_video_ids={each}' for each in MANY)}",
        None,
        pb.RecommendRequest(viewer_id="1", excluded_video_ids=MANY),
    ),
    "the longest token": (
        f"{SLATES}?page_token={MAX_LENGTH_TOKEN}",
        None,
        pb.RecommendRequest(viewer_id="1", page_token=MAX_LENGTH_TOKEN),
    ),
    "a body as in the proto": (
        BY_BODY,
        {"viewer_id": "x", "page_size": 7},
        pb.RecommendRequest(viewer_id="x", page_size=7),
    ),
    "a body as in JSON": (
        BY_BODY,
        {"viewerId": "x", "pageToken": MAX_LENGTH_TOKEN},
        pb.RecommendRequest(viewer_id="x", page_token=MAX_LENGTH_TOKEN),
    ),
    "a filter and a session": (
        BY_BODY,
        {
            "viewer_id": "1",
            "filter": FILTER_JSON,
            "session": [{"videoId": "s", "action": "SESSION_ACTION_HOVERED"}],
        },
        pb.RecommendRequest(
            viewer_id="1",
            filter=FILTER,
            session=[pb.SessionVideo(video_id="s", action=pb.SESSION_ACTION_HOVERED)],
        ),
    ),
    "the largest valid body": (
        BY_BODY,
        {"viewer_id": "x", "excluded_video_ids": LARGEST},
        pb.RecommendRequest(viewer_id="x", excluded_video_ids=LARGEST),
    ),
}


@pytest.mark.parametrize(("path", "body", "request_"), REQUESTS.values(), ids=REQUESTS.keys())
async def test_a_path_or_a_body_becomes_a_request(
    edge: Edge, path: str, body: Any, request_: pb.RecommendRequest
) -> None:
    answer = await edge.rest(path, body)
    assert answer.json["items"] == [{"videoId": "v", "position": 1}]
    assert edge.last_request == request_


@pytest.mark.parametrize(
    "viewer", ["0", "a/b", "a b", "a+b", "..", ".", "%2F", "ä é 日本", "?&#=", "'\"\\", "x" * 128]
)
async def test_ids_of_any_characters_arrive_unchanged(edge: Edge, viewer: str) -> None:
    quoted = quote(viewer, safe="")
    path = f"/v1/viewers/{quoted}/recommendations?seed_video_id={quoted}"
    assert (await edge.rest(path)).status == 200
    assert (edge.last_request.viewer_id, edge.last_request.seed_video_id) == (viewer, viewer)
    assert (await edge.rest(BY_BODY, {"viewer_id": viewer})).status == 200
    assert edge.last_request.viewer_id == viewer


async def test_similar_videos_and_explanations_are_asked_for_by_path_and_by_body(
    edge: Edge,
) -> None:
    [gateway] = edge.gateways
    await edge.rest("/v1/videos/a%2Fb/similar?page_size=3&excluded_video_ids=x")
    asked = pb.SimilarVideosRequest(video_id="a/b", page_size=3, excluded_video_ids=["x"])
    assert gateway.similar == asked
    answer = await edge.rest("/v1/videos:similar", {"video_id": "a/b", "filter": FILTER_JSON})
    assert answer.json["items"] == [{"videoId": "v", "position": 1}]
    assert gateway.similar == pb.SimilarVideosRequest(video_id="a/b", filter=FILTER)
    slate = {"viewerId": "1", "filter": FILTER_JSON}
    answer = await edge.rest("/v1/videos:explain", {"video_id": "w", "request": slate})
    assert answer.json["lostAt"] == "LOST_AT_RETRIEVAL"
    assert answer.json["sourceRanks"][0] == {
        "source": "SOURCE_TWO_TOWER",
        "rank": 812,
        "proposed": 450,
    }
    request = pb.RecommendRequest(viewer_id="1", filter=FILTER)
    assert gateway.explained == pb.ExplainVideoRequest(request=request, video_id="w")


async def test_a_batch_is_a_line_a_viewer_for_longer_than_other_calls_may_take(edge: Edge) -> None:
    edge.gateways[0].delay = 0.6
    answer = await edge.rest(BATCH, {"viewerIds": ["a", "b", "c"], "pageSize": 5})
    edge.gateways[0].delay = 0
    lines = answer.body.decode().splitlines()
    assert [json.loads(line) for line in lines] == [{"viewerId": each} for each in "abc"]
    viewers = [f"{number:0128d}" for number in range(10_000)]
    answer = await edge.rest(BATCH, {"viewerIds": viewers})
    assert answer.body.count(b"\n") == len(viewers)
    refused = await edge.rest(BATCH, {"viewerIds": ["v" * (1 << 21)]})
    assert (refused.status, refused.json["code"]) == (413, 8)
    assert (await edge.rest(BATCH, {"viewerIds": 7})).fields == ["viewer_ids"]


def seen(edge: Edge) -> tuple[int, object, object]:
    """What has reached the gateway: how many requests for slates, and the last of others."""
    gateway = edge.gateways[0]
    return len(gateway.requests), gateway.similar, gateway.explained


@pytest.mark.parametrize(
    ("path", "body", "fields"),
    [
        *(
            (f"{SLATES}?{parameters}", None, [field])
            for parameters, field in (
                ("page_size=ten", "page_size"),
                ("page_size=%FF%C3%A9", "page_size"),
                ("page_size=99999999999", "page_size"),
                ("surface=SIDEBAR", "surface"),
                ("surface=7", "surface"),
                ("explain=perhaps", "explain"),
                ("pagesize=10", "pagesize"),
                ("excluded_video_ids=", "excluded_video_ids[0]"),
            )
        ),
        *(
            (BY_BODY, body, fields)
            for body, *fields in (
                ({"viewer_id": 5}, "viewer_id"),
                ({"viewer_id": "x", "page_size": "ten"}, "page_size"),
                ({"viewer_id": "x", "page_size": 1.5}, "page_size"),
                ({"viewer_id": "x", "excluded_video_ids": [1]}, "excluded_video_ids[0]"),
                ({"viewer_id": "x", "context": {"time": "noon"}}, "context.time"),
                ({"viewer_id": "x", "context": 'a "quoted" text'}, "context"),
                ({"page_size": 0}, "page_size", "viewer_id"),
            )
        ),
    ],
)
async def test_a_mistake_is_a_400_that_names_its_fields(
    edge: Edge, path: str, body: Any, fields: list[str]
) -> None:
    answer = await edge.rest(path, body)
    assert (answer.status, answer.json["code"], answer.fields) == (400, 3, fields)
    assert fields[0] in answer.json["message"]


Sent = dict[str, Any]
REFUSED: list[tuple[str, Sent, int, int, str]] = [
    *((BY_BODY, {"body": body}, 400, 3, "") for body in ("{", "[]", b"\xff")),
    (BY_BODY, {"body": '{"viewer_id": "\\ud800"}'}, 400, 3, ""),
    ("/v1/viewers/%FF/recommendations", {}, 400, 3, "UTF-8"),
    *((path, {}, 404, 5, "") for path in ("/", "/v1/nothing", "/v1/viewers/1", "/v2/viewers/1")),
    (SLATES, {"method": "DELETE"}, 404, 5, ""),
    ("/v1/openapi.json", {"body": "{}"}, 404, 5, ""),
    *(
        (f"{path}?video_id=2", sent, 404, 5, "")
        for path in ("/v1//viewers/1/recommendations", "/v1/videos/:similar", "/v1/viewers/1/x;")
        for sent in ({}, {"body": "{}"})
    ),
    *(
        (SLATES, {"headers": {"grpc-timeout": unfit}}, 400, 3, "grpc-timeout: ")
        for unfit in ("", "soon", "1", "-1S", "1 S", "123456789S")
    ),
    (SLATES, {"headers": {"x-large": "y" * (61 << 10)}}, 431, 3, "60 KiB"),
    (BY_BODY, {"body": {"viewer_id": "x" * (1 << 20)}}, 413, 8, "1 MiB"),
]


@pytest.mark.parametrize(("path", "sent", "status", "code", "words"), REFUSED)
async def test_what_is_no_request_is_refused_and_reaches_no_gateway(
    edge: Edge, path: str, sent: Sent, status: int, code: int, words: str
) -> None:
    before = seen(edge)
    answer = await edge.rest(path, **sent)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert words in answer.json["message"]
    assert seen(edge) == before


async def test_many_headers_get_through(edge: Edge) -> None:
    many = {f"x-{number}": "y" * 100 for number in range(500)}
    assert (await edge.rest(SLATES, headers=many)).status == 200


SPELLINGS = {
    "as in the proto": lambda name: name,
    "as in JSON": lambda name: re.sub("_(.)", lambda found: found[1].upper(), name),
    "percent-encoded": lambda name: name.replace("_", "%5F"),
    "wholly percent-encoded": lambda name: "".join(f"%{ord(each):02x}" for each in name),
    "percent-encoded twice": lambda name: name.replace("_", "%255F"),
    "in upper case": str.upper,
    "after another": lambda name: f"explain=true&{name}=2&&{name}",
    "before an empty part": lambda name: name + ".",
    "before an encoded empty part": lambda name: name + "%2E",
    "before two empty parts": lambda name: name + "..",
    "before another part": lambda name: name + ".value",
    "before a bracket": lambda name: name + "[",
}


def rest_methods(*, body: bool) -> Iterator[tuple[str, str]]:
    """The verbs and paths by REST that have a body, or not."""
    for path, operations in json.loads(OPENAPI.read_text())["paths"].items():
        for verb, operation in operations.items():
            if ("requestBody" in operation) is body:
                yield verb.upper(), path


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS.keys())
@pytest.mark.parametrize("end", ["", "/", "//"])
async def test_a_parameter_that_the_path_has_is_a_400_that_names_it(
    edge: Edge, spelling: Callable[[str], str], end: str
) -> None:
    before = seen(edge)
    checked = 0
    for verb, path in rest_methods(body=False):
        for name in re.findall(r"{(\w+)}", path):
            url = f"{re.sub(r'{.*?}', '1', path)}{end}?{spelling(name)}=2"
            answer = await edge.rest(url, method=verb)
            assert (answer.status, answer.json["code"]) == (400, 3), url
            message = re.sub("%(25)*..|_", "", answer.json["message"].lower())
            assert name.replace("_", "") in message
            checked += 1
    assert checked >= 2
    assert seen(edge) == before


@pytest.mark.parametrize("name", ["viewer_id", "viewerId", "request.viewer_id", "context.device"])
async def test_any_parameter_beside_a_body_is_a_400_that_names_it(edge: Edge, name: str) -> None:
    before = seen(edge)
    for verb, path in rest_methods(body=True):
        for body in ('{"viewer_id": "1"}', "{}", ""):
            for end in ("", "/"):
                answer = await edge.rest(f"{path}{end}?{name}=2", body, verb)
                assert (answer.status, answer.fields) == (400, [name]), path
    assert seen(edge) == before


async def test_a_body_of_a_get_doesnt_override_the_viewer_of_its_path(edge: Edge) -> None:
    for name in ("viewer_id", "viewerId"):
        answer = await edge.rest(SLATES, {name: "2"}, "GET")
        assert answer.status == 400 or edge.last_request.viewer_id == "1"


async def test_the_openapi_document_is_served_to_pages_of_any_origin(edge: Edge) -> None:
    answer = await edge.rest("/v1/openapi.json", headers={"origin": "https://editor.example"})
    assert answer.json == json.loads(OPENAPI.read_text())
    assert answer.headers["access-control-allow-origin"] == "*"
    head = await edge.rest("/v1/openapi.json", method="HEAD")
    assert (head.status, head.body) == (200, b"")


async def test_the_callers_request_id_is_forwarded_and_returned_unchanged(edge: Edge) -> None:
    # By default Envoy writes a trace bit into what looks like a UUID.
    sent = "11111111-2222-4333-8444-555555555555"
    answer = await edge.rest(SLATES, headers={"x-request-id": sent})
    assert answer.headers["x-request-id"] == sent
    assert edge.gateways[0].metadata["x-request-id"] == sent
    made = await edge.rest(SLATES)
    assert made.headers["x-request-id"] == edge.gateways[0].metadata["x-request-id"] != sent
