from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from rich.console import Console

from bench.fuzz.calls import Method
from bench.fuzz.frames import BROKEN, ask_spoilt
from bench.fuzz.messages import WAYS, spoilt, valid
from bench.fuzz.run import FuzzResult, run_fuzz
from tests.builders.tiny_home import DATASET, build_tiny_home
from vireo.server.gateway.page_token import shown_keys
from vireo.server.rpc.errors import RpcError
from vireo.v1.event_pb2 import RecordEventsRequest
from vireo.v1.recommendation_pb2 import RecommendRequest

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].methods_by_name["Check"]
CHECK = Method("gateway", "127.0.0.1:1", HEALTH)
EVERYWHERE = {
    "vireo.v1.ReleaseService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}
PUBLIC = {"vireo.v1.RecommendationService", "vireo.v1.EventService", "vireo.v1.CatalogService"}
INNER = {"inference.GRPCInferenceService", "grpc.channelz.v1.Channelz"}
ASKED = {
    "edge": {*PUBLIC, "grpc.channelz.v1.Channelz"},  # as its gateway says; it answers 404
    "gateway": {*PUBLIC, "grpc.channelz.v1.Channelz"},
    "candidate": {"vireo.v1.CandidateService", *INNER},
    "ranking": {"vireo.v1.RankingService", *INNER},
}


def parses(data: bytes) -> bool:
    try:
        RecommendRequest.FromString(data)
    except DecodeError:
        return False
    return True


@pytest.mark.parametrize("way", WAYS)
def test_the_same_seed_makes_the_same_bytes_in_every_way(way: str) -> None:
    first, second = (
        spoilt(random, way, valid(random, RecommendRequest.DESCRIPTOR))
        for random in (Random("1"), Random("1"))
    )
    assert first == second


@pytest.mark.parametrize("way", ["no UTF-8", "random bytes", "cut"])
def test_some_mutated_messages_cannot_be_parsed(way: str) -> None:
    made = [
        spoilt(random, way, valid(random, RecommendRequest.DESCRIPTOR))
        for random in map(Random, range(40))
    ]
    assert not all(map(parses, made))


def test_slates_are_asked_for_with_filters_and_with_forged_tokens() -> None:
    made = [valid(random, RecommendRequest.DESCRIPTOR) for random in map(Random, range(100))]
    requests = [each for each in made if isinstance(each, RecommendRequest)]
    assert len(requests) == len(made)
    tokens = [each.page_token for each in requests if each.page_token]
    for request in (each for each in requests if each.page_token):
        with pytest.raises(RpcError, match=r"^page_token: "):
            shown_keys(request)
    assert any(len(token) > 20_000 for token in tokens)
    assert 0 < sum(each.HasField("filter") for each in requests) < len(requests)


def test_unknown_fields_leave_a_message_valid() -> None:
    made = [
        spoilt(random, "unknown field", valid(random, RecordEventsRequest.DESCRIPTOR))
        for random in map(Random, range(20))
    ]
    for data in made:
        message = RecordEventsRequest.FromString(data)
        assert all(event.event_id and event.viewer_id for event in message.events)
        message.DiscardUnknownFields()
        assert len(message.SerializeToString()) < min(len(data), 1_000)
    assert max(map(len, made)) > 3_900_000


async def test_a_request_that_ends_the_connection_of_good_calls_is_found() -> None:
    def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ended = await ask_spoilt(Random(1), replace(CHECK, address=address), "no te")
    assert ended.startswith(BROKEN)


def test_unwanted_statuses_are_kept_with_their_requests() -> None:
    result = FuzzResult()
    result.add(CHECK, "deep, well", "INTERNAL: oh")
    result.add(CHECK, "deep, well", "INVALID_ARGUMENT: x")
    assert result.answers[CHECK.name] == {"INTERNAL": 1, "INVALID_ARGUMENT": 1}
    assert result.unwanted == {f"{CHECK.name} INTERNAL": ["deep, well: oh"]}


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_no_bad_request_kills_a_process_or_gets_an_unclear_answer(tmp_path: Path) -> None:
    home = build_tiny_home(tmp_path)
    result = run_fuzz(home, DATASET, 1200, 1, Console())
    assert result.unwanted == {}
    assert result.died == []
    assert result.holds
    assert sum(sum(each.values()) for each in result.answers.values()) == 1200
    asked: dict[str, set[str]] = {}
    for name in result.answers:
        place, path = name.split(" ")
        asked.setdefault(place, set()).add(path.partition("/")[0])
    assert asked == {place: services | EVERYWHERE for place, services in ASKED.items()}
    assert result.answers["edge vireo.v1.RecommendationService/Recommend"].keys() >= {
        "OK",
        "INVALID_ARGUMENT",
    }


@pytest.mark.parametrize(
    ("place", "status"), [("ranking", "HUNG"), ("gateway", "HUNG"), ("edge", "DEADLINE_EXCEEDED")]
)
def test_a_silent_call_that_lasts_until_its_deadline_hangs_where_the_server_must_end_it(
    place: str, status: str
) -> None:
    result, method = FuzzResult(), replace(CHECK, place=place)
    result.add(method, "valid, silent", "DEADLINE_EXCEEDED: Deadline Exceeded")
    assert result.answers[method.name] == {status: 1}
    assert len(result.unwanted) == (status == "HUNG")
