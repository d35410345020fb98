"""How a client's one connection is shared, and how it ends."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from tests.builders.waiting import until
from tests.clients.python.conftest import Connect, Recommend
from vireo_client import AsyncClient, Client, Unavailable, VireoError
from vireo_client.testing import FakeStack


async def test_all_calls_share_one_connection(stack: FakeStack, recommend: Recommend) -> None:
    slates = await asyncio.gather(*(recommend(str(number)) for number in range(50)))
    assert all(slate.items for slate in slates)
    assert {request.viewer_id for request in stack.requests} == {str(n) for n in range(50)}
    assert len({context.peer() for context in stack.contexts}) == 1


async def test_threads_may_share_a_client(stack: FakeStack) -> None:
    def ask(client: Client) -> None:
        with ThreadPoolExecutor(8) as pool:
            for slate in pool.map(client.recommend, map(str, range(80)), timeout=60):
                assert slate.items

    with Client(stack.target, timeout=60) as client:
        await asyncio.to_thread(ask, client)
    assert len(stack.requests) == 80
    assert len({context.peer() for context in stack.contexts}) == 1


async def test_a_closed_client_says_so(stack: FakeStack, connect: Connect) -> None:
    async with connect(stack.target) as recommend:
        await recommend("1")
    with pytest.raises(ValueError, match="closed"):
        await recommend("1")
    assert len(stack.requests) == 1


async def test_closing_a_client_ends_its_calls(stack: FakeStack, connect: Connect) -> None:
    stack.hang()
    async with connect(stack.target) as recommend:
        call = asyncio.ensure_future(recommend("1", request_id="mine"))
        await until(lambda: bool(stack.requests))
    with pytest.raises(VireoError) as caught:
        await call
    assert caught.value.code is grpc.StatusCode.CANCELLED
    assert caught.value.request_id == "mine"


async def test_a_call_may_end_in_the_grace_that_closing_gives(stack: FakeStack) -> None:
    async with AsyncClient(stack.target, timeout=60) as client:
        call = asyncio.ensure_future(client.recommend("1"))
        await until(lambda: bool(stack.requests))
        await client.close(grace=60)
        assert (await call).items


async def test_cancelling_a_task_cancels_its_call(stack: FakeStack) -> None:
    stack.hang()
    async with AsyncClient(stack.target, timeout=60) as client:
        call = asyncio.ensure_future(client.recommend("1"))
        await until(lambda: bool(stack.requests))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: not stack.contexts[0].is_active())


def test_an_async_client_needs_a_running_loop() -> None:
    with pytest.raises(RuntimeError, match="running event loop"):
        AsyncClient("127.0.0.1:1")


async def test_a_server_that_is_back_is_found_again(stack: FakeStack, connect: Connect) -> None:
    stack.stop()
    async with connect(stack.target) as recommend:
        for _ in range(2):
            with pytest.raises(Unavailable):
                await recommend("1")
            stack.start()
            while True:
                try:
                    assert (await recommend("1")).items
                    break
                except Unavailable:
                    await asyncio.sleep(0.05)
            stack.stop()


async def test_a_channel_of_your_own_is_used_and_stays_open(stack: FakeStack) -> None:
    async with grpc.aio.insecure_channel(stack.target) as channel:
        async with AsyncClient("", channel=channel, timeout=60) as client:
            assert (await client.recommend("1")).items
        async with AsyncClient("", channel=channel, timeout=60) as client:
            assert (await client.recommend("1")).items
    assert len({context.peer() for context in stack.contexts}) == 1
    with pytest.raises(ValueError, match="your own channel"):
        Client("", channel=channel, options=[("grpc.enable_retries", 0)])


class Counted(grpc.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.calls = 0

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.calls += 1
        return continuation(details, request)


class CountedAsync(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.calls = 0

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.calls += 1
        return await continuation(details, request)


async def test_interceptors_see_each_call(stack: FakeStack) -> None:
    sync, asynchronous = Counted(), CountedAsync()
    with Client(stack.target, timeout=60, interceptors=[sync]) as client:
        await asyncio.to_thread(client.recommend, "1")
    async with AsyncClient(stack.target, timeout=60, interceptors=[asynchronous]) as client:
        await client.recommend("1")
    assert sync.calls == asynchronous.calls == 1
    assert len(stack.requests) == 2
