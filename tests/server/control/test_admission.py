"""Publication of the pods that exist when a control plane starts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import grpc
import grpc.aio
import pytest

from tests.builders.control import SetDiscovery, local
from tests.builders.edge import CandidatePod, serve_candidate
from tests.builders.s3 import unreachable_s3
from tests.builders.waiting import until
from vireo.ops.stack.ports import free_port_base
from vireo.server.control.admission import Admission
from vireo.server.control.mesh import Endpoints, Members, Pool
from vireo.server.control.settings import ControlSettings

PRODUCTION, CANARY = Pool("candidate"), Pool("candidate", "canary")
Published = list[Mapping[Pool, Members]]


def quick(first_seconds: float) -> ControlSettings:
    return ControlSettings(
        admission_interval=0.02, initial_admission_timeout=first_seconds, s3=unreachable_s3()
    )


@asynccontextmanager
async def admitting(endpoints: Endpoints, first_seconds: float) -> AsyncIterator[Published]:
    """Yield what an admission of these endpoints publishes."""
    published: Published = []
    admission = Admission(quick(first_seconds), SetDiscovery(endpoints), published.append)
    running = asyncio.create_task(admission.run())
    try:
        yield published
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_the_first_snapshot_includes_a_slow_production_pod() -> None:
    fast = free_port_base()
    slow = fast + 1
    async with AsyncExitStack() as stack:
        await serve_candidate(CandidatePod("fast"), fast, stack)
        accepted = asyncio.Event()

        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set()
            await reader.read()
            writer.close()

        hanging = await asyncio.start_server(hang, "127.0.0.1", slow)
        async with admitting({PRODUCTION: local(fast, slow)}, first_seconds=60) as published:
            await asyncio.wait_for(accepted.wait(), 60)
            hanging.close()
            await hanging.wait_closed()
            assert not published
            await serve_candidate(CandidatePod("slow"), slow, stack)
            await until(lambda: bool(published))
        assert published[0][PRODUCTION] == Members(local(fast, slow))


async def test_an_unresponsive_pod_is_published_after_the_timeout_only_in_production() -> None:
    healthy = free_port_base()
    gone = healthy + 1
    async with AsyncExitStack() as stack:
        await serve_candidate(CandidatePod("healthy"), healthy, stack)
        found = {PRODUCTION: local(healthy, gone), CANARY: local(gone + 1)}
        async with admitting(found, first_seconds=0.1) as published:
            await until(lambda: bool(published))
    assert published[0][PRODUCTION] == Members(local(healthy, gone))
    assert published[0][CANARY] == Members()


@pytest.mark.parametrize("answer", [b"\xff\xff", b"\x08\x63", b""])
async def test_a_pod_whose_answer_makes_no_sense_is_not_admitted_and_harms_no_other(
    answer: bytes,
) -> None:
    asked = 0

    async def check(_: bytes, context: object) -> bytes:
        nonlocal asked
        asked += 1
        return answer

    odd = grpc.aio.server()
    odd.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}
            ),
        )
    )
    odd_port = odd.add_insecure_port("127.0.0.1:0")
    await odd.start()
    healthy = free_port_base()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(odd.stop, None)
        await serve_candidate(CandidatePod("healthy"), healthy, stack)
        found = {PRODUCTION: local(healthy), CANARY: local(odd_port)}
        async with admitting(found, first_seconds=60) as published:
            await until(lambda: bool(published) and asked >= 3)
    assert published[-1][PRODUCTION] == Members(local(healthy))
    assert published[-1][CANARY] == Members()


async def test_members_that_cannot_be_passed_on_are_passed_on_again() -> None:
    published: Published = []
    refused = 0

    def changed(members: Mapping[Pool, Members]) -> None:
        nonlocal refused
        if refused < 2:
            refused += 1
            raise ValueError("nothing can be made of them")
        published.append(members)

    discovery = SetDiscovery({PRODUCTION: local(free_port_base())})
    running = asyncio.create_task(Admission(quick(0), discovery, changed).run())
    await until(lambda: bool(published) or running.done())
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_pods_found_later_are_admitted_at_once_and_those_that_are_gone_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vireo.server.control.admission._SETTLED_SECONDS", 3600.0)
    first = free_port_base()
    async with AsyncExitStack() as stack:
        for port in (first, first + 1):
            await serve_candidate(CandidatePod(str(port)), port, stack)
        discovery, published = SetDiscovery({PRODUCTION: local(first)}), Published()
        settings = quick(60).model_copy(update={"endpoint_drain_seconds": 0.1})
        running = asyncio.create_task(Admission(settings, discovery, published.append).run())
        await until(lambda: bool(published))
        for port in (first + 1, first):
            discovery.set(PRODUCTION, port)
            expected = Members(local(port))
            await until(partial(lambda now: published[-1][PRODUCTION] == now, expected))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
