"""Promotions and rollbacks under load, through Envoy, on every pod of a stack."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc.aio
import pytest

from tests.builders.releases import build_release
from tests.builders.slate_load import Answers, slates_during
from tests.builders.stack import Stack
from tests.builders.waiting import until
from vireo.ops.stack.s3 import access
from vireo.ops.stack.settings import StackSettings
from vireo.server.releases.channels import Change
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo.v1.release_pb2 import GetServingReleaseRequest
from vireo.v1.release_pb2_grpc import ReleaseServiceStub

pytestmark = pytest.mark.integration

CALLERS = 4
SWAPS = 4
RELEASES = ("tiny-1", "rollout-2")
"""The first is the one that the stack serves before and after."""


@pytest.fixture(scope="module")
def stack(tiny_stack: Stack) -> Stack:
    return tiny_stack


def s3_of(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> S3Settings:
    for name, text in stack.environment.items():
        if name.startswith("VIREO_"):
            monkeypatch.setenv(name, text)
    settings = access(StackSettings.load())
    assert settings is not None
    return settings


async def test_release_service_answers_through_the_inner_listeners(stack: Stack) -> None:
    base = int(stack.environment["VIREO_PORT_BASE"])
    for kind, port in (("candidate", base + 1), ("ranking", base + 2)):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = ReleaseServiceStub(channel)
            pods: set[str] = set()
            # Envoy's own checks may find a pod a little after the stack is ready.
            async with asyncio.timeout(30):
                while pods != {f"{kind}-1", f"{kind}-2"}:
                    pods.add((await stub.GetServingRelease(GetServingReleaseRequest())).pod)


async def test_releases_that_go_live_and_back_under_load_fail_and_mix_no_answer(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = ReleaseStore(s3_of(stack, monkeypatch))
    store.publish(build_release(tmp_path / "new", release_id=RELEASES[1], videos=400, seed=1))
    pods = [each.port for each in stack.state().processes if each.pool]

    async def serves(port: int, release_id: str) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = ReleaseServiceStub(channel)
            while True:
                state = await stub.GetServingRelease(GetServingReleaseRequest(), timeout=30)
                if state.release_id == release_id:
                    return
                await asyncio.sleep(0.05)

    async def swaps(answers: Answers) -> None:
        for number in range(1, SWAPS + 1):
            release_id = RELEASES[number % 2]
            channel = store.read_channel("production")
            await asyncio.to_thread(store.change_channel, "production", Change(release_id), channel)
            async with asyncio.timeout(60):
                await asyncio.gather(*(serves(port, release_id) for port in pods))
            enough = answers.releases[release_id] + 20
            await until(lambda: answers.releases[release_id] >= enough, 60)  # noqa: B023 (awaited at once)

    answers = await slates_during(stack.edge, swaps, CALLERS)
    assert not answers.failures
    assert answers.releases.keys() == set(RELEASES)
    # A slow machine may leave a stage out, and say so; no chain has two releases.
    slow = {"FEATURES_MISSING", "RANKING_SKIPPED", "POPULAR_FALLBACK", "CANDIDATES_REDUCED"}
    assert answers.degradations.keys() <= {f"DEGRADATION_{name}" for name in slow}
