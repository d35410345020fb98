"""Both clients, to be asked in the same way, and a fake stack."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

import pytest
import pytest_asyncio

from tests.builders.fake_stack import stack
from vireo_client import AsyncClient, Client, Slate
from vireo_client.testing import FakeStack

__all__ = ["stack"]


class Caller:
    """Either client; called itself, it recommends."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self._client = client

    async def __call__(self, *given: Any, **how: Any) -> Slate:
        slate: Slate = await self.call("recommend", *given, **how)
        return slate

    async def call(self, name: str, *given: Any, **how: Any) -> Any:
        """Call a method by name."""
        method = getattr(self._client, name)
        if isinstance(self._client, AsyncClient):
            return await method(*given, **how)
        return await asyncio.to_thread(method, *given, **how)

    async def each(self, name: str, *given: Any, **how: Any) -> AsyncIterator[Any]:
        """Yield what a method that returns an iterator yields, as it is asked for."""
        items = getattr(self._client, name)(*given, **how)
        if isinstance(self._client, AsyncClient):
            async for item in items:
                yield item
            return
        while (item := await asyncio.to_thread(next, items, None)) is not None:
            yield item


Recommend: TypeAlias = Callable[..., Awaitable[Slate]]
Connect: TypeAlias = Callable[..., AbstractAsyncContextManager[Caller]]
"""Makes a client, with the arguments of its constructor."""


@asynccontextmanager
async def _client(*arguments: Any, **options: Any) -> AsyncIterator[Caller]:
    with Client(*arguments, **options) as client:
        yield Caller(client)


@asynccontextmanager
async def _async_client(*arguments: Any, **options: Any) -> AsyncIterator[Caller]:
    async with AsyncClient(*arguments, **options) as client:
        yield Caller(client)


@pytest.fixture(params=[_client, _async_client], ids=["Client", "AsyncClient"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """Make a client that waits long enough for a busy machine."""
    return partial(request.param, timeout=60)


@pytest_asyncio.fixture
async def recommend(connect: Connect, stack: FakeStack) -> AsyncIterator[Caller]:
    """Ask that stack."""
    async with connect(stack.target) as recommend:
        yield recommend
