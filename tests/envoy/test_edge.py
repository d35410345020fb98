"""What callers meet at the edge: REST, gRPC, gRPC-Web, CORS, limits."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protos.generate import OPENAPI
from tests.builders.edge import GATEWAY, Edge, running_edge
from tests.builders.http2 import grpc_frame
from vireo.server.rpc.caller import CALLER
from vireo.server.rpc.errors import invalid_argument
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

RECOMMENDATIONS = "/v1/viewers/1/recommendations"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json", self
        return json.loads(self.body)

    @property
    def fields(self) -> list[str]:
        """The fields of the answer's google.rpc.BadRequest."""
        [bad] = self.json["details"]
        assert bad["@type"] == "type.googleapis.com/google.rpc.BadRequest"
        return [violation["field"] for violation in bad["fieldViolations"]]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path_factory.mktemp("edge"), gateway_count=1) as edge:
        yield edge


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def channel(edge: Edge) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(edge.address) as channel:
        yield channel


async def ask(
    edge: Edge,
    path: str,
    body: str | bytes | None = None,
    method: str = "",
    headers: dict[str, str] | None = None,
) -> Answer:
    """One HTTP/1.1 request; http.client sends the path as it is."""

    def send() -> Answer:
        connection = http.client.HTTPConnection(edge.address, timeout=30)
        kind = {"content-type": "application/json"} if body is not None else {}
        verb = method or ("GET" if body is None else "POST")
        connection.request(verb, path, body, {**kind, **(headers or {})})
        response = connection.getresponse()
        answer = Answer(
            response.status,
            {name.lower(): text for name, text in response.getheaders()},
            response.read(),
        )
        connection.close()
        return answer

    return await asyncio.to_thread(send)


async def test_a_path_and_parameters_become_a_request(edge: Edge) -> None:
    answer = await ask(
        edge,
        f"{RECOMMENDATIONS}?page_size=7&surface=SURFACE_UP_NEXT&seed_video_id=s"
        "&excluded_video_ids=a&excluded_video_ids=b&explain=true&context.device=tv",
    )
    assert answer.json["items"] == [{"videoId": "v", "position": 1}]
    assert edge.last_request == pb.RecommendRequest(
        viewer_id="1",
        page_size=7,
        surface=pb.SURFACE_UP_NEXT,
        seed_video_id="s",
        excluded_video_ids=["a", "b"],
        explain=True,
        context=pb.RequestContext(device="tv"),
    )


async def test_a_json_body_becomes_a_request_by_either_name_of_a_field(edge: Edge) -> None:
    for name in ("page_size", "pageSize"):
        answer = await ask(edge, "/v1/recommendations", json.dumps({"viewer_id": "x", name: 7}))
        assert answer.status == 200
        assert edge.last_request == pb.RecommendRequest(viewer_id="x", page_size=7)


@pytest.mark.parametrize(
    "viewer", ["0", "a/b", "a b", "a+b", "..", ".", "%2F", "ä é 日本", "?&#=", "'\"\\", "x" * 128]
)
async def test_ids_of_any_characters_arrive_unchanged(edge: Edge, viewer: str) -> None:
    seed = quote(viewer, safe="")
    answer = await ask(
        edge, f"/v1/viewers/{quote(viewer, safe='')}/recommendations?seed_video_id={seed}"
    )
    assert answer.status == 200
    assert (edge.last_request.viewer_id, edge.last_request.seed_video_id) == (viewer, viewer)
    answer = await ask(edge, "/v1/recommendations", json.dumps({"viewer_id": viewer}))
    assert answer.status == 200
    assert edge.last_request.viewer_id == viewer


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ("page_size=ten", "page_size"),
        ("page_size=%FF%C3%A9", "page_size"),
        ("page_size=99999999999", "page_size"),
        ("page_size=0", "page_size"),
        ("page_size=501", "page_size"),
        ("surface=SIDEBAR", "surface"),
        ("surface=7", "surface"),
        ("surface=SURFACE_UP_NEXT", "seed_video_id"),
        ("explain=perhaps", "explain"),
        ("pagesize=10", "pagesize"),
        ("excluded_video_ids=", "excluded_video_ids[0]"),
    ],
)
async def test_a_bad_parameter_is_a_400_that_names_it(
    edge: Edge, parameters: str, field: str
) -> None:
    answer = await ask(edge, f"{RECOMMENDATIONS}?{parameters}")
    assert answer.status == 400
    assert answer.json["code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert field in answer.json["message"]
    assert answer.fields == [field]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"viewer_id": 5}, "viewer_id"),
        ({"viewer_id": ""}, "viewer_id"),
        ({"viewer_id": "x" * 129}, "viewer_id"),
        ({"viewer_id": "x", "page_size": "ten"}, "page_size"),
        ({"viewer_id": "x", "page_size": 1.5}, "page_size"),
        ({"viewer_id": "x", "excluded_video_ids": [1]}, "excluded_video_ids[0]"),
        ({"viewer_id": "x", "excluded_video_ids": ["a"] * 1001}, "excluded_video_ids"),
        ({"viewer_id": "x", "context": {"time": "noon"}}, "context.time"),
        ({"viewer_id": "x", "context": 'a "quoted" text'}, "context"),
    ],
)
async def test_a_bad_body_is_a_400_that_names_the_field(
    edge: Edge, body: dict[str, Any], field: str
) -> None:
    answer = await ask(edge, "/v1/recommendations", json.dumps(body))
    assert answer.status == 400
    assert answer.json["code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert answer.fields == [field]


async def test_several_violations_are_all_listed(edge: Edge) -> None:
    answer = await ask(edge, "/v1/recommendations", json.dumps({"page_size": 0}))
    assert sorted(answer.fields) == ["page_size", "viewer_id"]


@pytest.mark.parametrize("body", ["{not json", "[]", '{"viewer_id": "\\ud800"}', b"\xff"])
async def test_a_body_that_is_no_json_object_is_a_400(edge: Edge, body: str | bytes) -> None:
    answer = await ask(edge, "/v1/recommendations", body)
    assert answer.status == 400
    assert answer.json["code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_an_id_that_is_no_utf8_is_a_400(edge: Edge) -> None:
    answer = await ask(edge, "/v1/viewers/%FF/recommendations")
    assert answer.status == 400
    assert "UTF-8" in answer.json["message"]


@pytest.mark.parametrize("path", ["/", "/v1/nothing", "/v1/viewers/1", "/v2/viewers/1"])
async def test_a_path_that_is_not_mapped_is_a_404_and_reaches_no_gateway(
    edge: Edge, path: str
) -> None:
    before = len(edge.gateways[0].requests)
    answer = await ask(edge, path)
    assert (answer.status, answer.json["code"]) == (404, grpc.StatusCode.NOT_FOUND.value[0])
    assert len(edge.gateways[0].requests) == before


async def test_a_method_that_is_not_mapped_is_a_404(edge: Edge) -> None:
    assert (await ask(edge, RECOMMENDATIONS, method="DELETE")).status == 404


async def test_the_openapi_document_is_served_to_pages_of_any_origin(edge: Edge) -> None:
    answer = await ask(edge, "/v1/openapi.json", headers={"origin": "https://editor.example"})
    assert answer.json == json.loads(OPENAPI.read_text())
    assert answer.headers["access-control-allow-origin"] == "*"
    head = await ask(edge, "/v1/openapi.json", method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert (await ask(edge, "/v1/openapi.json", "{}")).status == 404


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


def seen(edge: Edge) -> int:
    """How many requests for slates, similar videos and explanations reached the gateway."""
    gateway = edge.gateways[0]
    return len(gateway.requests) + (gateway.similar is not None) + (gateway.explained is not None)


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
            answer = await ask(edge, url, method=verb)
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
                answer = await ask(edge, f"{path}{end}?{name}=2", body, verb)
                assert (answer.status, answer.fields) == (400, [name]), path
    assert seen(edge) == before


async def test_a_body_of_a_get_doesnt_override_the_viewer_of_its_path(edge: Edge) -> None:
    for name in ("viewer_id", "viewerId"):
        answer = await ask(edge, RECOMMENDATIONS, json.dumps({name: "2"}), "GET")
        assert answer.status == 400 or edge.last_request.viewer_id == "1"


@pytest.mark.parametrize(
    "path", ["/v1//viewers/1/recommendations", "/v1/videos/:similar", "/v1/viewers/1/x;"]
)
async def test_a_path_that_isnt_that_of_a_method_has_no_parameters(edge: Edge, path: str) -> None:
    before = seen(edge)
    for method, body in (("GET", None), ("POST", "{}")):
        assert (await ask(edge, f"{path}?video_id=2", body, method)).status == 404
    assert seen(edge) == before


async def test_a_query_without_parameters_changes_nothing(edge: Edge) -> None:
    for query in ("?", "?&", "?="):
        assert (await ask(edge, f"{RECOMMENDATIONS}{query}")).status == 200
        assert edge.last_request == pb.RecommendRequest(viewer_id="1")


async def test_headers_up_to_60_kib_get_through_and_larger_ones_are_a_431(edge: Edge) -> None:
    excluded = [f"{number:0128}" for number in range(390)]
    query = "&".join(f"excluded_video_ids={each}" for each in excluded)
    assert (await ask(edge, f"{RECOMMENDATIONS}?{query}")).status == 200
    assert list(edge.last_request.excluded_video_ids) == excluded
    many = {f"x-{number}": "y" * 100 for number in range(500)}
    assert (await ask(edge, RECOMMENDATIONS, headers=many)).status == 200
    answer = await ask(edge, RECOMMENDATIONS, headers={"x-large": "y" * (61 << 10)})
    assert (answer.status, answer.json["code"]) == (431, 3)
    assert "60 KiB" in answer.json["message"]


@pytest.mark.parametrize("unfit", ["", "soon", "1", "-1S", "1 S", "123456789S"])
async def test_a_malformed_timeout_is_invalid(edge: Edge, unfit: str) -> None:
    answer = await ask(edge, RECOMMENDATIONS, headers={"grpc-timeout": unfit})
    assert (answer.status, answer.json["code"]) == (400, 3)
    assert answer.json["message"].startswith("grpc-timeout: ")


GRPC_PATHS = (f"/{GATEWAY}/Recommend", "/grpc.health.v1.Health/Check", "/a.B/C")


@pytest.mark.parametrize("path", GRPC_PATHS)
async def test_a_header_that_a_grpc_server_would_call_its_own_error_is_the_callers(
    edge: Edge, path: str
) -> None:
    headers = {"content-type": "application/grpc", "grpc-encoding": "snappy"}
    answer = await ask(edge, path, b"\0" * 5, headers=headers)
    assert answer.headers["grpc-status"] == str(grpc.StatusCode.UNIMPLEMENTED.value[0])
    assert answer.headers["grpc-message"].startswith("grpc-encoding: ")


async def test_a_malformed_grpc_timeout_and_a_missing_te_are_ignored(
    edge: Edge,
) -> None:
    # HTTP/1.1, and without the header `te`: a gateway's gRPC would reset the stream.
    headers = {"content-type": "application/grpc", "grpc-timeout": "soon"}
    message = pb.RecommendRequest(viewer_id="1").SerializeToString()
    answer = await ask(edge, f"/{GATEWAY}/Recommend", grpc_frame(message), headers=headers)
    assert answer.headers.get("grpc-status") != str(grpc.StatusCode.UNAVAILABLE.value[0])
    assert edge.last_request.viewer_id == "1"
    assert 0 < (edge.gateways[0].left or 0) <= 1, "the default deadline"


@pytest.mark.parametrize("path", GRPC_PATHS)
@pytest.mark.parametrize("kind", ["grpc", "grpc+proto", "grpc-web+proto", "grpc-web-text"])
async def test_grpc_by_another_verb_reaches_no_gateway(edge: Edge, path: str, kind: str) -> None:
    # A gateway would reset GET and PUT: two of them, and Envoy would leave it out for a while.
    headers = {"content-type": f"application/{kind}"}
    for verb in ("GET", "PUT", "DELETE", "PATCH"):
        answer = await ask(edge, path, b"AAAAAAA=", verb, headers)
        assert answer.headers["grpc-status"] == str(grpc.StatusCode.UNIMPLEMENTED.value[0])
        assert answer.headers["grpc-message"] == "gRPC requires POST"


async def test_a_body_over_a_mebibyte_is_a_413(edge: Edge) -> None:
    answer = await ask(edge, "/v1/recommendations", json.dumps({"viewer_id": "x" * (1 << 20)}))
    assert answer.status == 413
    assert "1 MiB" in answer.json["message"]
    assert answer.json["code"] == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


async def test_the_largest_valid_body_gets_through(edge: Edge) -> None:
    excluded = ["\u0001" * 125 + f"{number:03}" for number in range(1000)]
    body = json.dumps({"viewer_id": "x", "excluded_video_ids": excluded})
    assert (await ask(edge, "/v1/recommendations", body)).status == 200
    assert list(edge.last_request.excluded_video_ids) == excluded


async def test_the_callers_request_id_is_forwarded_and_returned_unchanged(edge: Edge) -> None:
    # By default Envoy writes a trace bit into what looks like a UUID.
    sent = "11111111-2222-4333-8444-555555555555"
    answer = await ask(edge, RECOMMENDATIONS, headers={"x-request-id": sent})
    assert answer.headers["x-request-id"] == sent
    assert edge.gateways[0].metadata["x-request-id"] == sent
    made = await ask(edge, RECOMMENDATIONS)
    assert made.headers["x-request-id"] == edge.gateways[0].metadata["x-request-id"] != sent


async def test_gateways_know_who_asks_for_a_slate_by_the_address_whatever_it_says(
    edge: Edge, channel: grpc.aio.Channel
) -> None:
    forged = {CALLER: "another"}
    await RecommendationServiceStub(channel).Recommend(
        pb.RecommendRequest(viewer_id="1"), metadata=tuple(forged.items()), timeout=60
    )
    assert edge.gateways[0].metadata[CALLER] == "127.0.0.1"
    assert (await ask(edge, RECOMMENDATIONS, headers=forged)).status == 200
    assert edge.gateways[0].metadata[CALLER] == "127.0.0.1"


async def test_browsers_of_allowed_origins_may_ask_and_others_not(edge: Edge) -> None:
    preflight = {"access-control-request-method": "POST"}
    here = {"origin": "http://localhost:3000"}
    for path in (RECOMMENDATIONS, f"/{GATEWAY}/Recommend"):
        answer = await ask(edge, path, method="OPTIONS", headers={**preflight, **here})
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
    answer = await ask(edge, RECOMMENDATIONS, headers={"origin": "http://localhost.example"})
    assert "access-control-allow-origin" not in answer.headers


async def test_grpc_web_gets_an_answer(edge: Edge) -> None:
    message = pb.RecommendRequest(viewer_id="w").SerializeToString()
    frame = base64.b64encode(b"\0" + len(message).to_bytes(4, "big") + message)
    kind = {"content-type": "application/grpc-web-text", "accept": "application/grpc-web-text"}
    answer = await ask(edge, f"/{GATEWAY}/Recommend", frame, headers=kind)
    assert answer.status == 200
    body = base64.b64decode(answer.body.split(b"=")[0] + b"==")
    size = int.from_bytes(body[1:5], "big")
    assert pb.RecommendResponse.FromString(body[5 : 5 + size]).items[0].video_id == "v"


async def test_a_request_with_many_mistakes_is_invalid_for_every_kind_of_caller(
    edge: Edge, channel: grpc.aio.Channel
) -> None:
    [gateway] = edge.gateways
    mistakes = [(f"filter.conditions[{place}]", "ü" * 200) for place in range(64)]
    gateway.refusal = invalid_argument(mistakes)
    asked = pb.RecommendRequest(viewer_id="1")
    frame = grpc_frame(asked.SerializeToString())
    path, kind = f"/{GATEWAY}/Recommend", {"content-type": "application/grpc-web+proto"}
    try:
        rest = await ask(edge, RECOMMENDATIONS)
        web = await ask(edge, path, frame, headers=kind)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await RecommendationServiceStub(channel).Recommend(asked, timeout=20)
    finally:
        gateway.refusal = None
    assert (rest.status, rest.json["code"]) == (400, 3)
    listed = rest.json["details"][0]["fieldViolations"]
    assert listed[0]["field"] == "filter.conditions[0]"
    assert rest.json["message"].endswith("and 59 more")
    assert web.headers["grpc-status"] == "3"
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (raised.value.details() or "").endswith("and 59 more")


async def test_grpc_gets_an_answer_on_the_same_port(edge: Edge, channel: grpc.aio.Channel) -> None:
    response = await RecommendationServiceStub(channel).Recommend(
        pb.RecommendRequest(viewer_id="g"), timeout=20
    )
    assert response.items[0].video_id == "v"
    assert edge.last_request.viewer_id == "g"


async def test_a_grpc_request_over_a_mebibyte_is_refused(channel: grpc.aio.Channel) -> None:
    request = pb.RecommendRequest(viewer_id="x" * (1 << 20))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await RecommendationServiceStub(channel).Recommend(request)
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_unknown_grpc_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    guess: Any = channel.unary_unary(f"/{GATEWAY}/Guess")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await guess(b"")
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_health_can_be_watched(channel: grpc.aio.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=GATEWAY))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


async def test_reflection_lists_services_while_its_stream_is_open(
    channel: grpc.aio.Channel,
) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[no-untyped-call]
    stream = stub.ServerReflectionInfo()
    await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = (await stream.read()).list_services_response
    assert GATEWAY in {service.name for service in listed.service}
    stream.cancel()
