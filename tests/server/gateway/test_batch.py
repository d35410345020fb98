"""Batches: each viewer once, whole or not at all, in any number of calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.builders.busy import busy
from tests.builders.chain import Chain, gateway_settings
from tests.builders.refusals import failure_of, violations_of
from tests.builders.rpc import serving
from tests.builders.samples import Grown, sample
from tests.builders.tiny_home import VIEWER, WATCHED
from tests.builders.waiting import until
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.gateway import batch
from vireo.server.gateway.batch import position_of, token_at
from vireo.server.gateway.service import gateway_pod
from vireo.server.pod.run_queue import RunQueue
from vireo.server.rpc.errors import RpcError
from vireo.v1 import candidate_pb2, filter_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.candidate_pb2_grpc import CandidateServiceStub
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub
from vireo.v1.viewer_pb2 import ViewerFeatures

VIEWERS = [VIEWER, *(f"stranger-{number}" for number in range(7))]


def request_of(viewers: Sequence[str] = VIEWERS, **changes: Any) -> pb.BatchRecommendRequest:
    request = pb.BatchRecommendRequest(viewer_ids=viewers, page_size=5, **changes)
    request.context.time.FromSeconds(1_900_000_000)
    return request


async def received(call: Any) -> list[pb.BatchRecommendResponse]:
    return [each async for each in call]


async def until_end(call: Any) -> pb.BatchRecommendResponse | None:
    """The next response; None once the call has ended or failed."""
    try:
        response = await call.read()
    except grpc.aio.AioRpcError:
        return None
    return None if response is grpc.aio.EOF else response


async def test_each_viewer_gets_the_slate_that_a_call_of_its_own_would_return(whole: Any) -> None:
    slates = await received(
        whole.BatchRecommend(request_of(), metadata=(("x-request-id", "mail"),))
    )
    assert [each.viewer_id for each in slates] == VIEWERS
    assert {each.slate.request_id for each in slates} == {"mail"}
    for each in slates:
        request = pb.RecommendRequest(viewer_id=each.viewer_id, page_size=5)
        request.context.time.FromSeconds(1_900_000_000)
        alone = await whole.Recommend(request)
        assert list(each.slate.items) == list(alone.items)
        assert not each.slate.degradations
    assert not {item.video_id for item in slates[0].slate.items} & set(WATCHED)


async def test_a_batch_continues_after_the_response_whose_token_it_gets(whole: Any) -> None:
    slates = await received(whole.BatchRecommend(request_of()))
    for position in (1, 5, len(VIEWERS)):
        token = slates[position - 1].resume_token
        rest = await received(whole.BatchRecommend(request_of(resume_token=token)))
        assert [each.viewer_id for each in rest] == VIEWERS[position:]
        assert [each.resume_token for each in rest] == [
            each.resume_token for each in slates[position:]
        ]


async def test_a_token_of_another_request_is_refused_by_name(whole: Any) -> None:
    token = (await received(whole.BatchRecommend(request_of())))[0].resume_token
    others = [request_of(VIEWERS[:-1]), request_of(), request_of()]
    others[1].page_size = 6
    others[2].context.locale = "de"
    for other in others:
        other.resume_token = token
    others += [request_of(resume_token=each) for each in ("x", "aa", token[:-4], token + "AAAA")]
    for other in others:
        error = await failure_of(whole.BatchRecommend(other))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert set(violations_of(error)) == {"resume_token"}


@pytest.mark.parametrize("position", [0, 4, 2**32 - 1])
def test_a_token_beyond_the_viewers_is_refused(position: int) -> None:
    digest = bytes(16)
    assert position_of(token_at(3, digest), digest, viewers=3) == 3
    with pytest.raises(RpcError, match="resume_token"):
        position_of(token_at(position, digest), digest, viewers=3)


async def test_the_largest_request_is_accepted_and_one_more_viewer_is_not(whole: Any) -> None:
    viewers = [f"{number:0128d}" for number in range(10_000)]
    call = whole.BatchRecommend(request_of(viewers))
    assert (await call.read()).viewer_id == viewers[0]
    call.cancel()
    for request, field in (
        (request_of([*viewers, "one more"]), "viewer_ids"),
        (request_of(filter=filter_pb2.Filter()), "filter"),  # the release can't check it
    ):
        error = await failure_of(whole.BatchRecommend(request))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert set(violations_of(error)) == {field}


@pytest.fixture
async def with_pod(chain: Chain) -> AsyncIterator[tuple[Any, RunQueue, Any]]:
    """A gateway, the run queue of its candidate pod, and a stub of that pod."""
    queue = RunQueue()
    async with (
        serving(CANDIDATE_POD, chain.release, queue=queue) as (pod, channel),
        chain.gateway(f"127.0.0.1:{pod.port}") as stub,
    ):
        yield stub, queue, CandidateServiceStub(channel)


async def test_a_caller_with_all_batches_gives_one_to_another_which_it_can_resume(
    with_pod: tuple[Any, RunQueue, Any],
) -> None:
    stub, queue, _ = with_pod
    async with busy(queue):
        first, second = (
            stub.BatchRecommend(request_of(), metadata=(("x-vireo-caller", "a"),)) for _ in range(2)
        )
        await until(lambda: sample("vireo_batches_open") == 2)
        other = stub.BatchRecommend(request_of(), metadata=(("x-vireo-caller", "b"),))
        done, _ = await asyncio.wait(
            [asyncio.ensure_future(each.code()) for each in (first, second)],
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert [each.result() for each in done] == [grpc.StatusCode.UNAVAILABLE]
    assert len(await received(other)) == len(VIEWERS)
    for each in (first, second):
        each.cancel()


async def test_a_pod_with_more_urgent_calls_is_asked_again_until_it_has_time(
    with_pod: tuple[Any, RunQueue, Any], grown: Grown
) -> None:
    stub, queue, pod = with_pod
    urgent = candidate_pb2.RetrieveCandidatesRequest(
        viewer=ViewerFeatures(watch_count=0), count=10, page_size=5
    )
    async with busy(queue):
        waiting = pod.RetrieveCandidates(urgent)
        await until(lambda: queue.queued == 2)
        batch = asyncio.create_task(received(stub.BatchRecommend(request_of())))
        await until(lambda: grown("vireo_batch_retries_total", stage="retrieval") > 0)
        assert queue.queued == 2, "the batch's call has no place in the queue"
    assert (await waiting).keys
    slates = await batch
    assert [each.viewer_id for each in slates] == VIEWERS
    assert not any(each.slate.degradations for each in slates)


@pytest.mark.parametrize(
    ("missing", "stage"),
    [
        ({"away": "candidate"}, "resume"),
        ({"away": "ranking"}, "resume"),
        ({"features_timeout": 1e-6}, "features"),
    ],
)
async def test_while_pods_or_the_store_are_away_a_batch_ends_instead_of_a_degraded_slate(
    chain: Chain, missing: dict[str, Any], stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "PATIENCE_SECONDS", 0.2)
    async with chain.gateway(**missing) as stub:
        error = await failure_of(stub.BatchRecommend(request_of([VIEWER])))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert stage in (error.details() or "")
        assert (await stub.Recommend(pb.RecommendRequest(viewer_id=VIEWER))).degradations


async def test_a_gateway_that_shuts_down_ends_its_batches_and_another_continues_them(
    chain: Chain,
) -> None:
    settings = gateway_settings(chain.features, chain.candidate, chain.ranking)
    slates: list[Any] = []
    viewers = [f"viewer-{number}" for number in range(300)]

    async with serving(gateway_pod(settings), chain.release) as (first, channel):
        call = RecommendationServiceStub(channel).BatchRecommend(request_of(viewers))
        slates.append(await call.read())
        draining = asyncio.create_task(first.drain())
        while (each := await until_end(call)) is not None:
            slates.append(each)
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        await draining
    async with serving(gateway_pod(settings), chain.release) as (_, channel):
        rest = request_of(viewers, resume_token=slates[-1].resume_token)
        slates += await received(RecommendationServiceStub(channel).BatchRecommend(rest))
    assert [each.viewer_id for each in slates] == viewers
