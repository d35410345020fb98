"""Callers with little time get an answer of what is at hand, and no pod works for them."""

from __future__ import annotations

import asyncio

import pytest

from tests.builders.chain import POPULAR, SKIPPED, Chain, slate_declaring
from tests.builders.relay import Relay, relaying
from tests.builders.samples import Grown
from tests.builders.tiny_home import VIEWER, WATCHED
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2

STALE = viewer_pb2.DEGRADATION_FEATURES_STALE
MISSING = viewer_pb2.DEGRADATION_FEATURES_MISSING


async def test_with_too_little_time_for_pods_the_popular_list_comes_and_no_pod_is_asked(
    chain: Chain,
) -> None:
    candidate, ranking = Relay(chain.candidate), Relay(chain.ranking)
    async with (
        relaying(candidate) as candidates_at,
        relaying(ranking) as ranking_at,
        # A caller without a deadline has this one, and waits for the answer.
        chain.gateway(candidate=candidates_at, ranking=ranking_at, default_deadline=0.005) as stub,
    ):
        request = pb.RecommendRequest(viewer_id=VIEWER, page_size=40)
        response = await stub.Recommend(request)
        assert list(response.degradations) == [MISSING, *POPULAR]
        assert len(response.items) == 40
        assert not candidate.requests

        assert not (await stub.Recommend(request, timeout=60)).degradations
        asked = len(candidate.requests), len(ranking.requests)
        assert asked == (1, 1)
        # What the viewer has watched is known by now.
        response = await stub.Recommend(request)
        assert list(response.degradations) == [STALE, *POPULAR]
        assert {item.video_id for item in response.items}.isdisjoint(WATCHED)
        assert (len(candidate.requests), len(ranking.requests)) == asked


async def test_a_ranking_pod_that_hangs_leaves_time_to_answer(chain: Chain) -> None:
    async with (
        relaying(Relay(chain.ranking, delay=60.0)) as ranking_at,
        chain.gateway(ranking=ranking_at, default_deadline=2.0) as stub,
    ):
        # More is declared if the machine is busy.
        await slate_declaring(stub, pb.RecommendRequest(viewer_id=VIEWER), SKIPPED)


@pytest.mark.parametrize(("deadline", "reason"), [(0.06, "skipped"), (0.4, "deadline_exceeded")])
async def test_candidate_pods_are_blamed_only_if_they_had_time_and_then_no_ranking_pod_is_asked(
    chain: Chain,
    deadline: float,
    reason: str,
    grown: Grown,
) -> None:
    ranking = Relay(chain.ranking)
    async with (
        relaying(Relay(chain.candidate, delay=60.0)) as candidates_at,
        relaying(ranking) as ranking_at,
        chain.gateway(candidates_at, ranking_at, default_deadline=deadline) as stub,
        asyncio.timeout(60),
    ):
        response = await stub.Recommend(pb.RecommendRequest(viewer_id=VIEWER))
    assert response.degradations[-1:] == POPULAR
    assert not ranking.requests
    for each in ("skipped", "deadline_exceeded"):
        failed = {"service": "gateway", "stage": "retrieval", "reason": each}
        assert grown("vireo_stage_failures_total", **failed) == (each == reason)


async def test_the_remaining_deadline_is_propagated_to_the_pods(
    chain: Chain,
) -> None:
    candidate, ranking = Relay(chain.candidate), Relay(chain.ranking)
    # So much that neither what a busy machine spends of it nor what gRPC rounds up shows.
    seconds = 1000.0
    limit = 2 * seconds
    async with (
        relaying(candidate) as candidates_at,
        relaying(ranking) as ranking_at,
        chain.gateway(
            candidates_at, ranking_at, retrieval_timeout=limit, ranking_timeout=limit
        ) as stub,
    ):
        response = await stub.Recommend(pb.RecommendRequest(viewer_id=VIEWER), timeout=seconds)
    assert not response.degradations
    [for_candidates], [for_ranking] = candidate.time_left, ranking.time_left
    assert 0.5 * seconds < for_candidates < 0.61 * seconds, "0.6 of it"
    assert 0.9 * seconds < for_ranking < 1.01 * seconds, "what is left then"
