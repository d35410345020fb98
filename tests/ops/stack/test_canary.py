"""A stack with a canary pool: who is answered by whom."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from typing import Any

import grpc
import psutil
import pytest

from tests.builders.commands import run_vireo as vireo
from tests.builders.releases import build_release
from tests.builders.secured_stack import ONE_POD_EACH
from tests.builders.stack import Stack, running_stack
from tests.builders.tiny_home import DATASET, build_tiny_home
from tests.builders.waiting import wait_until
from vireo.ops.stack.state import running_stack as state_of
from vireo.server.gateway.query import BUCKETS, viewer_bucket
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

pytestmark = pytest.mark.integration

SHARE = 0.1
VIEWERS = [f"viewer-{number}" for number in range(200)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = build_tiny_home(tmp_path_factory.mktemp("canary"))
    build_release(home.root / "other", release_id="tiny-2", seed=1)
    staged = home.staged_release(DATASET)
    prepare = f"""
        vireo release publish --data {DATASET}
        rm -r '{staged}' && mv '{home.root / "other"}' '{staged}'
        vireo release publish --data {DATASET} --no-promote
    """
    settings = {**ONE_POD_EACH, "VIREO_CANARY_PODS": "1"}
    with running_stack(home.root, prepare=prepare, settings=settings) as stack:
        yield stack


async def ask(stack: Stack, viewers: list[str]) -> list[pb.RecommendResponse]:
    """Everyone's slate, some at a time."""
    free = asyncio.Semaphore(8)
    async with grpc.aio.insecure_channel(stack.edge) as channel:
        stub: Any = RecommendationServiceStub(channel)

        async def one(viewer: str) -> pb.RecommendResponse:
            async with free:
                answer: pb.RecommendResponse = await stub.Recommend(
                    pb.RecommendRequest(viewer_id=viewer), timeout=20
                )
                return answer

        return list(await asyncio.gather(*map(one, viewers)))


def status(stack: Stack) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        vireo(stack.environment, "release", "status", "--json").stdout
    )
    return document


def canary(stack: Stack) -> dict[str, tuple[str, str, bool]]:
    """State and pool of the canary's pods, and whether they have a problem."""
    return {
        each.name: (each.state, each.pool, bool(each.problem))
        for each in stack.state().processes
        if each.name in ("candidate-canary-1", "ranking-canary-1")
    }


def test_a_canary_pool_waits_for_its_channel_and_holds_nothing_up(stack: Stack) -> None:
    wait_until(lambda: set(canary(stack).values()) == {("starting", "canary", True)}, 120)
    promote = ("release", "promote", "tiny-2", "--channel", "canary", "--share", str(SHARE))
    # Made up as they are, the releases can't be tested on the data set.
    vireo(stack.environment, *promote, "--force", "--reason", "a test")
    wait_until(lambda: set(canary(stack).values()) == {("healthy", "canary", False)}, 120)


async def test_the_canary_answers_exactly_its_share_of_the_viewers_each_time(stack: Stack) -> None:
    wanted = [
        "tiny-2" if viewer_bucket(viewer) < SHARE * BUCKETS else "tiny-1" for viewer in VIEWERS
    ]

    async with asyncio.timeout(60):
        # The canary's pods may load their release after the stack has become ready.
        while [each.release_id for each in await ask(stack, VIEWERS[:100])] != wanted[:100]:
            pass
    for _ in range(2):
        answers = await ask(stack, VIEWERS)
        assert [answer.release_id for answer in answers] == wanted
        assert not {kind for answer in answers for kind in answer.degradations}
    assert 0.05 <= wanted.count("tiny-2") / len(wanted) <= 0.15
    shown = status(stack)
    assert shown["channels"]["canary"]["share"] == SHARE
    assert shown["pods"]["ranking-canary-1"]["releaseId"] == "tiny-2"


def test_ctrl_c_ends_every_process_and_what_it_has_started(stack: Stack) -> None:
    """The last that has this stack. A port that is free then may be another test's at once."""
    supervisor = psutil.Process(stack.process.pid)
    children = supervisor.children(recursive=True)
    assert len(children) >= 10
    stack.process.send_signal(signal.SIGINT)
    stack.process.wait(60)
    assert not any(child.is_running() for child in children)
    assert state_of(stack.home) is None
    assert "vireo up" in vireo(stack.environment, "status", code=3).stderr
