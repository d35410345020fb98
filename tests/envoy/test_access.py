"""Whom the edge lets in: by token, by scope, and so often a second."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from tests.builders.edge import GATEWAY, RestAnswer
from tests.builders.http2 import http2
from tests.builders.recording import batch, play
from tests.envoy.conftest import RATE, SCOPES, Guarded, bearer
from vireo.server.rpc import guard
from vireo.server.rpc.caller import caller_in
from vireo.v1.event_pb2_grpc import EventServiceStub

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]


async def test_a_valid_token_is_accepted_and_not_forwarded(guarded: Guarded) -> None:
    assert (await guarded.recommend(guarded.tokens.good(subject="good"))).items
    assert "authorization" not in guarded.edge.gateways[0].metadata
    answer = await guarded.rest(guarded.tokens.good(subject="good"))
    assert (answer.status, len(answer.json["items"])) == (200, 1)


async def test_a_token_that_says_nothing_is_unauthenticated_and_counted(guarded: Guarded) -> None:
    asked = len(guarded.edge.gateways[0].requests)
    for reason, token in {**guarded.tokens.refused(), "no header": None}.items():
        denied = await guarded.edge.stat("http.edge.jwt_authn.denied")
        assert await guarded.code(token) is grpc.StatusCode.UNAUTHENTICATED, reason
        answer = await guarded.rest(token)
        assert (answer.status, answer.json["code"], answer.json["details"]) == (401, 16, []), reason
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert await guarded.edge.stat("http.edge.jwt_authn.denied") == denied + 2
    assert len(guarded.edge.gateways[0].requests) == asked


async def test_a_token_in_the_path_is_ignored(guarded: Guarded) -> None:
    # Paths are logged, by proxies of others too.
    token = guarded.tokens.good(subject="path")
    path = f"/v1/viewers/1/recommendations?access_token={token}"
    assert (await guarded.rest(None, path)).status == 401
    method = f"/{GATEWAY}/Recommend?access_token={token}"
    assert await guarded.raw_code(method, None) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("scope", ["vireo.admin", "vireo.readable", "vireo", ""])
async def test_a_token_without_the_scope_is_denied_and_counted(
    guarded: Guarded, scope: str
) -> None:
    token = guarded.tokens.good(scope, subject="scopes")
    denied = await guarded.edge.stat("http.edge.rbac.denied")
    assert await guarded.code(token) is grpc.StatusCode.PERMISSION_DENIED
    answer = await guarded.rest(token)
    assert (answer.status, answer.json["code"]) == (403, 7)
    assert "scope" in answer.json["message"]
    assert await guarded.edge.stat("http.edge.rbac.denied") == denied + 2


async def test_reflection_and_releases_need_the_scope_of_operators_and_others_are_denied(
    guarded: Guarded,
) -> None:
    reader = guarded.tokens.good("vireo.read", subject="admin")
    operator = guarded.tokens.good("vireo.admin", subject="admin")

    def listed(token: str | None) -> grpc.StatusCode | list[str]:
        # Blocking, since a stream of grpc.aio that is refused while it writes ends in INTERNAL.
        with grpc.insecure_channel(guarded.edge.address) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[no-untyped-call]
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            try:
                [answer] = stub.ServerReflectionInfo(
                    iter([request]), timeout=30, metadata=bearer(token)
                )
            except grpc.RpcError as error:
                return error.code()
            return [each.name for each in answer.list_services_response.service]

    assert await asyncio.to_thread(listed, None) is grpc.StatusCode.UNAUTHENTICATED
    assert await asyncio.to_thread(listed, reader) is grpc.StatusCode.PERMISSION_DENIED
    services = await asyncio.to_thread(listed, operator)
    assert isinstance(services, list)
    assert GATEWAY in services
    release = "/vireo.v1.ReleaseService/GetServingRelease"
    assert await guarded.raw_code(release, reader) is grpc.StatusCode.PERMISSION_DENIED
    unknown = "/vireo.v1.EveryoneService/Remove"
    assert await guarded.raw_code(unknown, operator) is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("scope", "method", "path"),
    [
        ("vireo.explain", f"/{GATEWAY}/ExplainVideo", "/v1/videos:explain"),
        ("vireo.batch", f"/{GATEWAY}/BatchRecommend", "/v1/recommendations:batch"),
        ("vireo.events", "/vireo.v1.EventService/RecordEvents", "/v1/events"),
        ("vireo.events", "/vireo.v1.EventService/StreamEvents", ""),
        ("vireo.catalog", "/vireo.v1.CatalogService/UpsertVideos", "/v1/videos"),
        ("vireo.catalog", "/vireo.v1.CatalogService/RemoveVideos", "/v1/videos:remove"),
    ],
)
async def test_methods_with_a_scope_of_their_own_need_it_and_it_allows_nothing_else(
    guarded: Guarded, scope: str, method: str, path: str
) -> None:
    subject = f"recorder of {method}"
    others = SCOPES - {scope}
    token = guarded.tokens.good(*others, subject=subject)
    assert await guarded.raw_code(method, token) is grpc.StatusCode.PERMISSION_DENIED
    assert await guarded.raw_code(method, None) is grpc.StatusCode.UNAUTHENTICATED
    recorder = guarded.tokens.good(scope, subject=subject)
    assert await guarded.raw_code(method, recorder) is grpc.StatusCode.INVALID_ARGUMENT
    assert await guarded.code(recorder) is grpc.StatusCode.PERMISSION_DENIED
    if path:
        assert (await guarded.rest(token, path, "{}")).status == 403
        assert (await guarded.rest(recorder, path, "{}")).status == 400


async def test_the_openapi_document_is_for_every_caller_that_the_edge_knows(
    guarded: Guarded,
) -> None:
    document = "/v1/openapi.json"
    assert (await guarded.rest(None, document)).status == 401
    for scope in ("other", *SCOPES):
        answer = await guarded.rest(guarded.tokens.good(scope, subject="api"), document)
        assert answer.status == (403 if scope == "other" else 200)


async def test_health_needs_no_token(guarded: Guarded) -> None:
    stub = health_pb2_grpc.HealthStub(guarded.channel)  # type: ignore[no-untyped-call]
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=GATEWAY), timeout=30)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING

    assert (await guarded.edge.rest("/ready")).status == 200, "load balancers have none"


async def test_browsers_of_allowed_origins_may_ask_with_a_token_and_others_not(
    guarded: Guarded,
) -> None:
    origin, slates = "http://localhost:3000", "/v1/viewers/1/recommendations"
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    for path in (slates, f"/{GATEWAY}/Recommend"):
        answer = await guarded.edge.rest(path, method="OPTIONS", headers=asked)
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == origin
        assert "authorization" in answer.headers["access-control-allow-headers"]
    elsewhere = {**dict(bearer(guarded.tokens.good(subject="page"))), "origin": f"{origin}.example"}
    answer = await guarded.edge.rest(slates, headers=elsewhere)
    assert "access-control-allow-origin" not in answer.headers


async def test_a_rate_limited_caller_gets_a_retry_delay_and_others_are_unaffected(
    guarded: Guarded,
) -> None:
    busy, other = (guarded.tokens.good(subject=name) for name in ("busy", "other"))
    limited = await guarded.edge.stat("edge.http_local_rate_limit.rate_limited")
    refused: list[grpc.aio.AioRpcError] = []
    async with asyncio.timeout(60):
        while not refused:  # the slower the machine, the more of them are let in meanwhile
            calls = await asyncio.gather(
                *(guarded.recommend(busy) for _ in range(4 * RATE)), return_exceptions=True
            )
            refused = [call for call in calls if isinstance(call, grpc.aio.AioRpcError)]
    assert await guarded.edge.stat("edge.http_local_rate_limit.rate_limited") == limited + len(
        refused
    )
    for error in refused:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = rpc_status.from_call(error)  # type: ignore[no-untyped-call]
        retry = error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(retry)
        assert retry.retry_delay.ToSeconds() == 1
    assert await guarded.code(other) is grpc.StatusCode.OK
    limited_by_rest: list[RestAnswer] = []
    async with asyncio.timeout(60):
        while not limited_by_rest:
            await asyncio.gather(
                *(guarded.recommend(busy) for _ in range(2 * RATE)), return_exceptions=True
            )
            answers = await asyncio.gather(*(guarded.rest(busy) for _ in range(RATE)))
            limited_by_rest = [each for each in answers if each.status == 429]
    assert limited_by_rest[0].headers["retry-after"] == "1"
    assert limited_by_rest[0].json["code"] == 8
    assert limited_by_rest[0].json["details"] == [
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"}
    ]
    assert (await guarded.rest(other)).status == 200


async def test_a_caller_of_events_is_known_by_the_subject_of_its_token(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers = []

    def caller(metadata: Any) -> str:
        callers.append(caller_in(metadata))
        return callers[-1]

    monkeypatch.setattr(guard, "caller_in", caller)
    forged = ("x-vireo-caller", "another")
    for subject in ("page-1", "é 1", ""):
        token = guarded.tokens.good("vireo.events", subject=subject)
        call = EventServiceStub(guarded.channel).RecordEvents(
            batch([play("1")]), metadata=(*bearer(token), forged), timeout=30
        )
        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED  # it has no log
        body = {"events": [{"eventId": "1", "viewerId": "v", "kind": 2, "videoId": "v"}]}
        assert (await guarded.rest(token, "/v1/events", body)).status == 501
    # An empty name would be one of our own processes, which have no budget.
    assert callers == [*["page-1"] * 2, *["%c3%a9%201"] * 2, *["127.0.0.1"] * 2]


async def test_calls_count_before_anything_of_their_body_is_kept(guarded: Guarded) -> None:
    headers = dict(bearer(guarded.tokens.good(subject="slow")))
    path = f"/{GATEWAY}/Recommend"
    async with http2(guarded.edge.address) as connection, asyncio.timeout(60):
        refused = False
        while not refused:  # the slower the machine, the more of them are let in meanwhile
            calls = [connection.open(path, b"\0", headers, end=False) for _ in range(4 * RATE)]
            for call in calls:
                await call.ended.wait()
            refused = any(call.code is grpc.StatusCode.RESOURCE_EXHAUSTED for call in calls)
