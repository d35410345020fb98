"""What inner pods answer that no pod should: none of it reaches a caller."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import grpc
import pytest
import structlog

from tests.builders.chain import POPULAR, SKIPPED, Chain
from tests.builders.relay import Relay, relaying
from tests.builders.releases import video_ids
from tests.builders.rpc import answering_bytes
from tests.builders.samples import Grown
from tests.builders.tiny_home import VIEWER, WATCHED
from vireo.server.gateway import pods
from vireo.v1 import recommendation_pb2 as pb

REQUEST = pb.RecommendRequest(viewer_id=VIEWER, page_size=37)


def check_whole(response: pb.RecommendResponse) -> None:
    """Whatever is missing, a slate has all its videos and no value that isn't one."""
    names = [item.video_id for item in response.items]
    assert set(names) == set(video_ids(40)) - set(WATCHED)
    assert len(names) == len(set(names))
    assert all(math.isfinite(item.score) for item in response.items)
    scores = [item.task_scores for item in response.items if item.HasField("task_scores")]
    assert all(0 <= score <= 1 for each in scores for score in (each.watch, each.like))


def nan_score(answer: Any) -> None:
    answer.scores[0] = math.nan


def nan_co_watch(answer: Any) -> None:
    [column] = [column for column in answer.scores if column.name == "co_watch"]
    column.values[-1] = math.nan


@pytest.mark.parametrize(
    ("kind", "garbage", "degradations"),
    [("ranking", nan_score, SKIPPED), ("candidate", nan_co_watch, POPULAR)],
)
async def test_a_pod_that_answers_garbage_is_found_and_costs_its_stage_and_nothing_else(
    chain: Chain,
    kind: str,
    garbage: Callable[[Any], None],
    degradations: list[int],
    grown: Grown,
) -> None:
    relay = Relay(chain.ranking if kind == "ranking" else chain.candidate, change=garbage)
    stage = "ranking" if kind == "ranking" else "retrieval"
    async with relaying(relay) as target, chain.gateway(**{kind: target}) as stub:
        with structlog.testing.capture_logs() as logs:
            response = await stub.Recommend(REQUEST)
    assert list(response.degradations) == degradations
    check_whole(response)
    assert len(relay.requests) == 2, "another pod might have done better"
    of_the_stage = {"stage": stage, "address": ""}  # the pod's isn't known
    assert grown("vireo_invalid_responses_total", **of_the_stage) == 2
    assert len([line for line in logs if line["event"] == "bad answer of a pod"]) == 2


def test_a_counter_names_so_many_pods_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pods, "_labels", set())
    names = [f"10.0.0.{number}" for number in range(102)]
    assert [pods._label(name) for name in names] == [*names[:100], "other", "other"]
    assert pods._label(names[0]) == names[0]


async def test_a_second_try_that_meets_a_sound_pod_makes_the_answer_whole(
    chain: Chain,
) -> None:
    relay = Relay(chain.ranking)

    def every_other(answer: Any) -> None:
        if len(relay.requests) % 2:
            nan_score(answer)

    relay.change = every_other
    async with (
        relaying(relay) as ranking,
        chain.gateway(ranking=ranking) as stub,
    ):
        response = await stub.Recommend(REQUEST)
    assert not response.degradations
    check_whole(response)
    assert len(relay.requests) == 2


async def test_an_error_is_retried_if_another_pod_may_succeed(chain: Chain) -> None:
    relay = Relay(chain.ranking)
    async with relaying(relay) as ranking, chain.gateway(ranking=ranking) as stub:
        for code, tries in (
            (grpc.StatusCode.INTERNAL, 1),  # Envoy has asked others
            (grpc.StatusCode.UNKNOWN, 2),
            (grpc.StatusCode.UNAVAILABLE, 1),  # Envoy has asked others
            (grpc.StatusCode.RESOURCE_EXHAUSTED, 1),
            (grpc.StatusCode.INVALID_ARGUMENT, 1),
            (grpc.StatusCode.CANCELLED, 1),
        ):
            relay.code = code
            relay.requests.clear()
            response = await stub.Recommend(REQUEST)
            assert list(response.degradations) == SKIPPED
            check_whole(response)
            assert len(relay.requests) == tries, code


@pytest.mark.parametrize("raw", [b"\xff\xff not a message", b""])
async def test_answers_that_are_no_messages_are_garbage_too(chain: Chain, raw: bytes) -> None:
    async with (
        answering_bytes(lambda: raw) as broken,
        chain.gateway(ranking=broken) as unranked,
        chain.gateway(candidate=broken) as popular,
    ):
        response = await unranked.Recommend(REQUEST)
        assert list(response.degradations) == SKIPPED
        check_whole(response)
        response = await popular.Recommend(REQUEST)
        assert list(response.degradations) == POPULAR
        check_whole(response)
