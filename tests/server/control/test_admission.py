"""Which pods are published: those that exist at the start, come, go, and are unhealthy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.builders.control import SetDiscovery, local
from tests.builders.edge import CandidatePod, serve_candidate
from tests.builders.rpc import answering_bytes
from tests.builders.s3 import unreachable_s3
from tests.builders.waiting import until
from vireo.ops.stack.ports import free_port_base
from vireo.server.control import control as module
from vireo.server.control.control import Admission, Membership
from vireo.server.control.mesh import Endpoints, Pool
from vireo.server.control.settings import ControlSettings

PRODUCTION, CANARY = Pool("candidate"), Pool("candidate", "canary")
Published = list[Endpoints]


@pytest.fixture(autouse=True)
def frequent_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_INTERVAL_SECONDS", 0.02)


@asynccontextmanager
async def admitting(endpoints: Endpoints) -> AsyncIterator[Published]:
    """Yield what an admission of these endpoints publishes."""
    published: Published = []
    settings = ControlSettings(s3=unreachable_s3())
    admission = Admission(settings, SetDiscovery(endpoints), published.append)
    running = asyncio.create_task(admission.run())
    try:
        yield published
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[tuple[int, list[None]]]:
    """Serve these answers to health checks, the last again and again.

    Yields the port, and a list with an item for each check.
    """
    asked: list[None] = []

    def check() -> bytes:
        asked.append(None)
        return answers[min(len(asked), len(answers)) - 1]

    async with answering_bytes(check) as address:
        yield int(address.rpartition(":")[2]), asked


@pytest.mark.parametrize("answer", [b"\xff\xff", b"\x08\x63", b""])
async def test_a_pod_whose_answer_makes_no_sense_is_not_admitted_and_harms_no_other(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FIRST_SECONDS", 0.2)
    healthy = free_port_base()
    async with AsyncExitStack() as stack, answering(answer) as (odd, asked):
        await serve_candidate(CandidatePod("healthy"), healthy, stack)
        found = {PRODUCTION: local(healthy, healthy + 1), CANARY: local(odd)}
        async with admitting(found) as published:
            await until(lambda: bool(published) and len(asked) >= 3)
    # At the start production has all that are there, whether or not they are healthy.
    assert published[-1][PRODUCTION] == local(healthy, healthy + 1)
    assert published[-1][CANARY] == local()


async def test_at_the_start_nothing_is_published_until_pods_of_production_are_healthy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_FIRST_SECONDS", 60)
    not_serving, serves = b"\x08\x02", b"\x08\x01"
    async with (
        answering(*[not_serving] * 3, serves) as (port, asked),
        admitting({PRODUCTION: local(port)}) as published,
    ):
        await until(lambda: bool(published))
        assert len(asked) == 4
    assert published[0][PRODUCTION] == local(port)


def serving(*ports: int) -> Membership:
    """A pool whose pods have all been seen healthy."""
    pool = Membership(trusting=True)
    pool.found(local(*ports), 0)
    for endpoint in local(*ports):
        pool.admit(endpoint)
    return pool


@pytest.mark.parametrize("trusting", [True, False])
def test_without_a_healthy_pod_only_a_trusting_pool_publishes_all(*, trusting: bool) -> None:
    pool = Membership(trusting=trusting)
    pool.found(local(1, 2), 0)
    assert pool.members(0) == (local(1, 2) if trusting else local())


def test_pods_that_are_all_replaced_serve_until_a_new_one_is_healthy() -> None:
    pool = serving(1, 2)
    pool.found(local(3), 10)
    assert pool.members(100) == local(1, 2)
    [fresh] = local(3)
    pool.admit(fresh)
    assert pool.members(101) == local(3)


@pytest.mark.parametrize(
    ("found", "members"),
    [
        ({10: [1]}, {10: [1]}),
        ({10: [1], 11: [1, 2]}, {10: [1], 11: [1]}),
        ({10: []}, {39.9: [1, 2], 40: []}),
        ({10: [], 20: [1, 2], 39: []}, {60: [1, 2], 69: []}),
    ],
    ids=["one is gone", "one comes back, unchecked", "all gone", "all gone and back in time"],
)
def test_a_pod_that_is_gone_is_left_out_at_once_and_all_of_them_after_a_time(
    found: dict[float, list[int]], members: dict[float, list[int]]
) -> None:
    pool = serving(1, 2)
    for now in sorted({*found, *members}):
        if now in found:
            pool.found(local(*found[now]), now)
        if now in members:
            assert pool.members(now) == local(*members[now]), now
