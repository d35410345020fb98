"""What tests of calls that wait have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from vireo.server.rpc.errors import ShedError, ShedReason


async def settled() -> None:
    """Whatever can go on has gone on."""
    for _ in range(10):
        await asyncio.sleep(0)


async def reason(call: Coroutine[Any, Any, Any] | asyncio.Task[Any]) -> ShedReason:
    with pytest.raises(ShedError) as raised:
        await call
    return raised.value.reason


async def dropped(*tasks: asyncio.Task[Any]) -> None:
    for each in tasks:
        each.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
