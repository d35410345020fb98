"""Reads of features skip a store that fails, and those that viewers wait for say so."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.builders.samples import sample
from vireo.server.gateway import batch, viewer
from vireo.server.gateway.pods import StageFailedError
from vireo.server.gateway.query import RecommendQuery
from vireo.server.gateway.viewer import LastFeatures, ReadFeatures
from vireo.server.rpc.errors import RpcError
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.viewer_pb2 import ViewerFeatures


class Store:
    """A feature store that may fail, or take some seconds for each read."""

    dataset = "d"

    def __init__(self, *, fails: bool = False, takes: float = 0.0) -> None:
        self.fails, self.takes, self.reads = fails, takes, 0

    async def read(self, viewer_id: str, seconds: float) -> ViewerFeatures:
        self.reads += 1
        if self.fails:
            raise ConnectionError("away")
        async with asyncio.timeout(seconds):
            await asyncio.sleep(self.takes)
        return ViewerFeatures(watched_keys=[1])


def skipped() -> float:
    return sample("vireo_feature_store_circuit_open")


def reading(timeout: float = 20) -> ReadFeatures:
    return ReadFeatures(timeout, LastFeatures(1 << 20, 60))


async def read(stage: ReadFeatures, store: Any, left: float = 60) -> ViewerFeatures:
    query = RecommendQuery.of(pb.RecommendRequest(viewer_id="v"), "id", time.monotonic() + left)
    return await stage(query, store)


async def reasons(stage: ReadFeatures, store: Any, reads: int, left: float = 60) -> list[str]:
    """Why each of some reads failed."""
    found = []
    for _ in range(reads):
        with pytest.raises(StageFailedError) as raised:
            await read(stage, store, left)
        found.append(raised.value.reason)
    return found


async def test_callers_in_a_hurry_take_the_store_from_nobody() -> None:
    stage, store = reading(0.5), Store(takes=0.02)
    assert await reasons(stage, store, 5, left=0.02) == ["skipped"] * 5  # 3 ms each time
    assert (await read(stage, store)).watched_keys == [1]
    assert skipped() == 0


async def test_a_store_that_hangs_is_skipped_once_callers_had_time_for_it() -> None:
    stage, store = reading(0.05), Store(takes=60)
    assert await reasons(stage, store, 10) == [*["timeout"] * 3, *["circuit_open"] * 7]
    assert store.reads == 3
    assert skipped() == 1


async def test_a_store_that_fails_is_skipped_until_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage, store = reading(), Store(fails=True)
    assert await reasons(stage, store, 10) == [*["error"] * 3, *["circuit_open"] * 7]
    assert skipped() == 1
    monkeypatch.setattr(viewer, "PAUSE_SECONDS", 0.0)
    stage._next_try = 0.0
    assert await reasons(stage, store, 1) == ["error"]  # which finds out whether it is back
    store.fails = False
    await read(stage, store)
    assert skipped() == 0


async def test_failures_between_reads_that_succeed_are_chance() -> None:
    stage, store = reading(), Store()
    for _ in range(2):
        store.fails = True
        assert await reasons(stage, store, 2) == ["error"] * 2
        store.fails = False
        await read(stage, store)
    assert skipped() == 0


async def test_a_batch_that_gives_up_leaves_the_store_as_viewers_see_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(viewer, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(batch, "PATIENCE_SECONDS", -1.0)
    stage, before = ReadFeatures(20), skipped()
    for _ in range(4):
        with pytest.raises(RpcError, match="features has failed"):
            await batch.retried("features", read)(stage, Store(fails=True))
    assert skipped() == before
