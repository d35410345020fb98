"""What inner pods answer that no pod should: none of it reaches a caller."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from prometheus_client import REGISTRY

from tests.builders.relay import Relay, relaying
from tests.builders.releases import video_ids
from tests.builders.tiny_home import VIEWER, WATCHED
from tests.server.gateway.conftest import gateway
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2

SKIPPED = [viewer_pb2.DEGRADATION_RANKING_SKIPPED]
POPULAR = [viewer_pb2.DEGRADATION_POPULAR_FALLBACK]
REQUEST = pb.RecommendRequest(viewer_id=VIEWER, page_size=37)


def bad_answers(stage: str) -> float:
    """How many were counted, of pods whose address isn't known."""
    labels = {"stage": stage, "address": ""}
    return REGISTRY.get_sample_value("vireo_invalid_responses_total", labels) or 0.0


def check_whole(response: pb.RecommendResponse) -> None:
    """Whatever is missing, a slate has all its videos and no value that isn't one."""
    names = [item.video_id for item in response.items]
    assert set(names) == set(video_ids(40)) - set(WATCHED)
    assert len(names) == len(set(names))
    assert all(math.isfinite(item.score) for item in response.items)
    scores = [item.task_scores for item in response.items if item.HasField("task_scores")]
    assert all(0 <= score <= 1 for each in scores for score in (each.watch, each.like))


def scores_of(answer: Any) -> Any:
    """The values that order the answer of either kind of pod."""
    return answer.scores if hasattr(answer, "task_scores") else answer.scores[0].values


def nan_score(answer: Any) -> None:
    scores_of(answer)[0] = math.nan


def nan_probability(answer: Any) -> None:
    answer.task_scores[0].values[-1] = math.nan


def infinite_score(answer: Any) -> None:
    scores_of(answer)[3] = math.inf


def nan_beyond_the_page(answer: Any) -> None:
    answer.scores[0].values[-1] = math.nan


def nan_co_watch(answer: Any) -> None:
    [column] = [column for column in answer.scores if column.name == "co_watch"]
    column.values[0] = math.nan


def negative_co_watch(answer: Any) -> None:
    [column] = [column for column in answer.scores if column.name == "co_watch"]
    column.values[-1] = -5.0


def other_masks(answer: Any) -> None:
    answer.source_masks[0] ^= 1 << 5


def short_column(answer: Any) -> None:
    scores_of(answer).pop()


def no_tasks(answer: Any) -> None:
    answer.ClearField("task_scores")


def nameless_column(answer: Any) -> None:
    answer.scores.add(values=answer.scores[0].values)


def no_videos(answer: Any) -> None:
    for column in ("keys", "ids", "scores", "task_scores", "source_masks"):
        answer.ClearField(column)


def twice_the_same(answer: Any) -> None:
    answer.keys[1], answer.ids[1] = answer.keys[0], answer.ids[0]


def unasked_key(answer: Any) -> None:
    answer.keys[0] += 1


def no_ids(answer: Any) -> None:
    answer.ids[:] = [""] * len(answer.ids)


def other_ids(answer: Any) -> None:
    answer.ids[:] = list(reversed(answer.ids))


def no_release(answer: Any) -> None:
    answer.release_id = ""


GARBAGE: list[Callable[[Any], None]] = [
    nan_score,
    infinite_score,
    short_column,
    twice_the_same,
    unasked_key,
    no_ids,
    other_ids,
    no_release,
]


@pytest.mark.parametrize("garbage", [*GARBAGE, nan_probability, no_tasks, no_videos, other_masks])
async def test_a_ranking_pod_that_answers_garbage_costs_the_ranking_and_nothing_else(
    release: Path,
    features: Path,
    candidate_target: str,
    ranking_target: str,
    garbage: Callable[[Any], None],
) -> None:
    relay = Relay(ranking_target, change=garbage)
    before = bad_answers("ranking")
    async with (
        relaying(relay) as ranking,
        gateway(release, features, candidate_target, ranking) as stub,
    ):
        with structlog.testing.capture_logs() as logs:
            response = await stub.Recommend(REQUEST)
    assert list(response.degradations) == SKIPPED
    check_whole(response)
    assert len(relay.requests) == 2, "another pod might have done better"
    assert bad_answers("ranking") == before + 2
    assert len([line for line in logs if line["event"] == "bad answer of a pod"]) == 2


@pytest.mark.parametrize("garbage", [*GARBAGE, nameless_column])
async def test_a_candidate_pod_that_answers_garbage_gives_way_to_the_popular_list(
    release: Path,
    features: Path,
    candidate_target: str,
    ranking_target: str,
    garbage: Callable[[Any], None],
) -> None:
    relay = Relay(candidate_target, change=garbage)
    before = bad_answers("retrieval")
    async with (
        relaying(relay) as candidate,
        gateway(release, features, candidate, ranking_target) as stub,
    ):
        response = await stub.Recommend(REQUEST)
    assert list(response.degradations) == POPULAR
    check_whole(response)
    assert len(relay.requests) == 2
    assert bad_answers("retrieval") == before + 2


@pytest.mark.parametrize("garbage", [nan_beyond_the_page, nan_co_watch, negative_co_watch])
async def test_a_candidate_pods_bad_scores_are_noticed_beyond_the_first_page(
    release: Path,
    features: Path,
    candidate_target: str,
    ranking_target: str,
    garbage: Callable[[Any], None],
) -> None:
    relay = Relay(candidate_target, change=garbage)
    before = bad_answers("retrieval")
    async with (
        relaying(relay) as candidate,
        gateway(release, features, candidate, ranking_target) as stub,
    ):
        response = await stub.Recommend(pb.RecommendRequest(viewer_id=VIEWER, page_size=3))
    assert list(response.degradations) == POPULAR
    assert len(relay.requests) == 2, "another pod might have done better"
    assert bad_answers("retrieval") == before + 2


async def test_a_candidate_pod_that_proposes_watched_videos_is_not_believed(
    release: Path, features: Path, candidate_target: str, ranking_target: str
) -> None:
    relay = Relay(candidate_target)
    async with (
        relaying(relay) as candidate,
        gateway(release, features, candidate, ranking_target) as stub,
    ):
        await stub.Recommend(REQUEST)
        watched = relay.requests[0].viewer.watched_keys[0]
        relay.change = lambda answer: answer.keys.__setitem__(-1, watched)
        request = pb.RecommendRequest(viewer_id=VIEWER, page_size=3)
        response = await stub.Recommend(request)
    assert list(response.degradations) == POPULAR
    assert not {item.video_id for item in response.items} & set(WATCHED)


async def test_a_second_try_that_meets_a_sound_pod_makes_the_answer_whole(
    release: Path, features: Path, candidate_target: str, ranking_target: str
) -> None:
    relay = Relay(ranking_target)

    def every_other(answer: Any) -> None:
        if len(relay.requests) % 2:
            nan_score(answer)

    relay.change = every_other
    async with (
        relaying(relay) as ranking,
        gateway(release, features, candidate_target, ranking) as stub,
    ):
        for _ in range(5):
            response = await stub.Recommend(REQUEST)
            assert not response.degradations
            check_whole(response)
    assert len(relay.requests) == 10


@pytest.mark.parametrize(
    ("code", "tries"),
    [
        (grpc.StatusCode.INTERNAL, 1),  # Envoy has asked others
        (grpc.StatusCode.UNKNOWN, 2),
        (grpc.StatusCode.UNAVAILABLE, 1),  # Envoy has asked others
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 1),
        (grpc.StatusCode.INVALID_ARGUMENT, 1),
        (grpc.StatusCode.CANCELLED, 1),
    ],
)
async def test_an_error_is_retried_if_another_pod_may_succeed(
    release: Path,
    features: Path,
    candidate_target: str,
    ranking_target: str,
    code: grpc.StatusCode,
    tries: int,
) -> None:
    relay = Relay(ranking_target, code=code)
    async with (
        relaying(relay) as ranking,
        gateway(release, features, candidate_target, ranking) as stub,
    ):
        response = await stub.Recommend(REQUEST)
    assert list(response.degradations) == SKIPPED
    check_whole(response)
    assert len(relay.requests) == tries


@asynccontextmanager
async def answering_bytes(raw: bytes) -> AsyncIterator[str]:
    """A pod of either kind that answers these bytes to whatever it is asked."""

    class AnyMethod(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            async def answer(request: bytes, context: Any) -> bytes:
                return raw

            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.aio.server(handlers=(AnyMethod(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.mark.parametrize("raw", [b"\xff\xff not a message", b""])
async def test_answers_that_are_no_messages_are_garbage_too(
    release: Path, features: Path, candidate_target: str, raw: bytes
) -> None:
    async with (
        answering_bytes(raw) as broken,
        gateway(release, features, candidate_target, broken) as unranked,
        gateway(release, features, broken, broken) as popular,
    ):
        response = await unranked.Recommend(REQUEST)
        assert list(response.degradations) == SKIPPED
        check_whole(response)
        response = await popular.Recommend(REQUEST)
        assert list(response.degradations) == POPULAR
        check_whole(response)
