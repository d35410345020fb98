"""Whom the edge lets in: by token, by scope, and so often a second."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from tests.builders.edge import GATEWAY, Edge, RestAnswer, running_edge
from tests.builders.http2 import http2
from tests.builders.recording import batch, play
from tests.builders.tokens import Tokens
from vireo.server.rpc import guard
from vireo.server.rpc.caller import caller_of
from vireo.server.security.folder import SecurityFolder
from vireo.server.security.tokens import TokenSigner
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.catalog_pb2 import RemoveVideosRequest
from vireo.v1.catalog_pb2_grpc import CatalogServiceStub
from vireo.v1.event_pb2 import StreamEventsRequest
from vireo.v1.event_pb2_grpc import EventServiceStub
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

RATE = 20
SCOPES = {
    "vireo.read",
    "vireo.batch",
    "vireo.explain",
    "vireo.events",
    "vireo.catalog",
    "vireo.admin",
}
REFUSED = [
    "expired",
    "never expires",
    "wrong audience",
    "wrong issuer",
    "alg none",
    "shared secret",
    "another key",
    "tampered",
    "no signature",
    "no token at all",
]


@dataclass(frozen=True)
class Guarded:
    """An edge that asks for tokens, and who makes them."""

    edge: Edge
    channel: grpc.aio.Channel
    tokens: Tokens

    async def recommend(self, token: str | None) -> pb.RecommendResponse:
        stub = RecommendationServiceStub(self.channel)
        return await stub.Recommend(
            pb.RecommendRequest(viewer_id="1"), timeout=30, metadata=bearer(token)
        )

    async def code(self, token: str | None) -> grpc.StatusCode:
        try:
            await self.recommend(token)
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details()
        else:
            return grpc.StatusCode.OK
        assert details
        assert "{" not in details, "JSON is for REST"
        return code

    async def raw_code(self, method: str, token: str | None) -> grpc.StatusCode:
        """What a method answers, whichever it is, to an empty request."""
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(method)
        return await call(b"", metadata=bearer(token), timeout=30).code()

    async def rest(
        self, token: str | None, path: str = "/v1/viewers/1/recommendations", body: Any = None
    ) -> RestAnswer:
        return await self.edge.rest(path, body, headers=dict(bearer(token)))


def bearer(token: str | None) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token is not None else ()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    folder = SecurityFolder(tmp_path_factory.mktemp("security"))
    TokenSigner(folder).ensure()
    control = {"jwks": str(folder.jwks), "rate_limit": RATE}
    async with (
        running_edge(tmp_path_factory.mktemp("edge"), 1, control=control) as edge,
        grpc.aio.insecure_channel(edge.address) as channel,
    ):
        yield Guarded(edge, channel, Tokens(folder))


async def test_a_valid_token_is_accepted_and_not_forwarded(guarded: Guarded) -> None:
    assert (await guarded.recommend(guarded.tokens.good(subject="good"))).items
    assert "authorization" not in guarded.edge.gateways[0].metadata
    answer = await guarded.rest(guarded.tokens.good(subject="good"))
    assert (answer.status, len(answer.json["items"])) == (200, 1)


@pytest.mark.parametrize("reason", [*REFUSED, "no header"])
async def test_a_token_that_says_nothing_is_unauthenticated_and_counted(
    guarded: Guarded, reason: str
) -> None:
    assert guarded.tokens.refused().keys() == {*REFUSED}, "no reason is left out"
    token = guarded.tokens.refused().get(reason)
    asked = len(guarded.edge.gateways[0].requests)
    denied = await guarded.edge.stat("http.edge.jwt_authn.denied")
    assert await guarded.code(token) is grpc.StatusCode.UNAUTHENTICATED
    answer = await guarded.rest(token)
    assert (answer.status, answer.json["code"], answer.json["details"]) == (401, 16, [])
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


async def test_one_scope_of_several_is_enough(guarded: Guarded) -> None:
    token = guarded.tokens.good("other", "vireo.read", "vireo.admin", subject="scopes")
    assert await guarded.code(token) is grpc.StatusCode.OK


async def test_reflection_and_releases_need_the_scope_of_operators(guarded: Guarded) -> None:
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


@pytest.mark.parametrize(
    ("scope", "method", "path"),
    [
        ("vireo.explain", f"/{GATEWAY}/ExplainVideo", "/v1/videos:explain"),
        ("vireo.batch", f"/{GATEWAY}/BatchRecommend", ""),
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


async def test_methods_without_a_scope_are_denied(guarded: Guarded) -> None:
    token = guarded.tokens.good("vireo.read", "vireo.admin", subject="admin")
    unknown = "/vireo.v1.EveryoneService/Remove"
    assert await guarded.raw_code(unknown, token) is grpc.StatusCode.PERMISSION_DENIED


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


async def test_browsers_may_send_a_token_along(guarded: Guarded) -> None:
    asked = {
        "origin": "http://localhost:3000",
        "access-control-request-method": "GET",
        "access-control-request-headers": "authorization",
    }
    path = "/v1/viewers/1/recommendations"
    answer = await guarded.edge.rest(path, method="OPTIONS", headers=asked)
    assert answer.status == 200
    assert "authorization" in answer.headers["access-control-allow-headers"]


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

    def caller(context: Any) -> str:
        callers.append(caller_of(context))
        return callers[-1]

    monkeypatch.setattr(guard, "caller_of", caller)
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
        await test_health_needs_no_token(guarded)


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


async def test_new_keys_are_followed_and_old_ones_forgotten(guarded: Guarded) -> None:
    folder = guarded.tokens.folder
    before = guarded.tokens.good(subject="keys")
    folder.signing_key.unlink()
    folder.jwks.write_text("{}")  # what is unfit changes nothing
    await asyncio.sleep(1)
    assert await guarded.code(before) is grpc.StatusCode.OK
    folder.jwks.unlink()
    TokenSigner(folder).ensure()

    async def taken(token: str) -> bool:
        return await guarded.code(token) is grpc.StatusCode.OK

    async with asyncio.timeout(30):
        while not await taken(guarded.tokens.good(subject="new keys")):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        while await taken(before):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert await guarded.code(before) is grpc.StatusCode.UNAUTHENTICATED


# By which address the edge counts a caller who has no token.

_NUMBERS = itertools.count()


async def refused(edge: Edge, address: Callable[[int], str]) -> int:
    """How many calls at a time are refused, each with a number of its own in `x-forwarded-for`."""
    async with grpc.aio.insecure_channel(edge.address) as channel:
        stub = RecommendationServiceStub(channel)

        async def ask(forwarded: str) -> bool:
            metadata = (("x-forwarded-for", forwarded),)
            request = pb.RecommendRequest(viewer_id="1")
            code = await stub.Recommend(request, timeout=30, metadata=metadata).code()
            assert code in (grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED)
            return code is not grpc.StatusCode.OK

        sent = [address(next(_NUMBERS)) for _ in range(40)]
        return sum(await asyncio.gather(*map(ask, sent)))


async def limited(edge: Edge, address: Callable[[int], str]) -> bool:
    """Whether the limit holds for calls from `address`, however slow the machine is."""
    for _ in range(20):
        if await refused(edge, address):
            return True
    return False


def ipv4(number: int) -> str:
    return str(ipaddress.IPv4Address((10 << 24) + number))


async def test_a_forwarded_address_is_not_believed_by_default(tmp_path: Path) -> None:
    async with running_edge(tmp_path, 1, control={"rate_limit": 5}) as edge:
        assert await limited(edge, ipv4)


async def test_with_a_trusted_hop_the_address_that_it_adds_counts(tmp_path: Path) -> None:
    control = {"rate_limit": 5, "trusted_hops": 1}
    async with running_edge(tmp_path, 1, control=control) as edge:
        # What the caller itself has sent stands before what the proxy adds.
        assert await limited(edge, lambda number: f"{ipv4(number)}, 198.51.100.1")
        assert not await limited(edge, ipv4)
        # Of an IPv6 address the first half: a caller has all of the other.
        assert await limited(edge, "2001:db8::{:x}".format)
        assert not await limited(edge, "2001:db8:0:{:x}::1".format)
