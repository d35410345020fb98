"""Many calls at once, by nothing but the client: test_wheel.py runs it in other environments."""

import asyncio
import faulthandler
import sys
import time
from collections import Counter
from typing import Any

from vireo_client import AsyncClient
from vireo_client.testing import FakeStack

WAYS: list[dict[str, Any]] = [{}, {"page_size": 1000}, {"timeout": 0.0001}, {}]
ENDS = ("Slate", "InvalidRequest", "DeadlineExceeded", "CancelledError")


async def compare_ends(target: str) -> None:
    async with AsyncClient(target, timeout=60) as client:
        calls = [asyncio.ensure_future(client.recommend("1", **how)) for how in WAYS * 20]
        await asyncio.sleep(0)
        for each in calls[3::4]:
            each.cancel()
        ends = await asyncio.gather(*calls, return_exceptions=True)
    assert Counter(type(each).__name__ for each in ends) == dict.fromkeys(ENDS, 20)


async def leave_calls(target: str) -> None:
    """End the loop with calls that complete while it is busy."""
    client = AsyncClient(target)
    _left = [asyncio.ensure_future(client.recommend("1")) for _ in range(500)]
    await asyncio.sleep(0.001)
    time.sleep(1)  # noqa: ASYNC251


faulthandler.dump_traceback_later(60, exit=True)
asyncio.run(compare_ends(sys.argv[1]))
with FakeStack() as stack:
    asyncio.run(leave_calls(stack.target))
