"""Runs a release loader in the background, as a pod does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from vireo.server.releases.loader import ReleaseLoader


@asynccontextmanager
async def running(loader: ReleaseLoader[Any]) -> AsyncIterator[list[str]]:
    """Run the loader; yield a list that gets the first release once it is announced."""
    announced: list[str] = []

    async def on_first() -> None:
        assert loader.serving is not None
        announced.append(loader.serving.release_id)

    task = asyncio.create_task(loader.run(on_first))
    try:
        yield announced
        assert not task.done(), task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def serves(loader: ReleaseLoader[Any], release_id: str) -> bool:
    """Whether it serves this release."""
    return loader.serving is not None and loader.serving.release_id == release_id
