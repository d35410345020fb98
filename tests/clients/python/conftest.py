"""Both clients, to be asked in the same way, and a gateway with scripted responses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

import pytest
import pytest_asyncio

from tests.builders.gateway import FakeGateway, fake_gateway
from vireo_client import AsyncClient, Client, Slate

Recommend: TypeAlias = Callable[..., Awaitable[Slate]]
"""`recommend` of either client."""
Connect: TypeAlias = Callable[..., AbstractAsyncContextManager[Recommend]]
"""Makes a client, with the arguments of its constructor."""


@asynccontextmanager
async def _client(*arguments: Any, **options: Any) -> AsyncIterator[Recommend]:
    with Client(*arguments, **options) as client:

        async def recommend(*asked: Any, **how: Any) -> Slate:
            return await asyncio.to_thread(client.recommend, *asked, **how)

        yield recommend


@asynccontextmanager
async def _async_client(*arguments: Any, **options: Any) -> AsyncIterator[Recommend]:
    async with AsyncClient(*arguments, **options) as client:
        yield client.recommend


@pytest.fixture(params=[_client, _async_client], ids=["Client", "AsyncClient"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """Make a client that waits long enough for a busy machine."""
    return partial(request.param, timeout=60)


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[FakeGateway]:
    async with fake_gateway() as gateway:
        yield gateway


@pytest_asyncio.fixture
async def recommend(connect: Connect, gateway: FakeGateway) -> AsyncIterator[Recommend]:
    """Ask that gateway."""
    async with connect(gateway.address) as recommend:
        yield recommend
