"""Reads of features skip a store that fails, and those that viewers wait for say so."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from prometheus_client import REGISTRY

from vireo.server.gateway import batch, viewer
from vireo.server.gateway.pods import StageFailedError
from vireo.server.gateway.query import RecommendQuery
from vireo.server.gateway.viewer import LastFeatures, ReadFeatures
from vireo.server.rpc.errors import RpcError
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.viewer_pb2 import ViewerFeatures


class Store:
    """A feature store that fails as long as it is told to."""

    dataset = "d"
    fails = True

    async def read(self, viewer_id: str, seconds: float) -> ViewerFeatures:
        if self.fails:
            raise ConnectionError("away")
        return ViewerFeatures()


def skipped() -> float | None:
    return REGISTRY.get_sample_value("vireo_feature_store_circuit_open")


class SlowStore:
    """A store that takes some time for each read."""

    dataset = "d"

    def __init__(self, takes: float) -> None:
        self.takes = takes

    async def read(self, viewer_id: str, seconds: float) -> ViewerFeatures:
        async with asyncio.timeout(seconds):
            await asyncio.sleep(self.takes)
        return ViewerFeatures(watched_keys=[1])


async def read(stage: ReadFeatures, store: Any, left: float = 60) -> ViewerFeatures:
    query = RecommendQuery.of(pb.RecommendRequest(viewer_id="v"), "id", time.monotonic() + left)
    return await stage(query, store)


async def test_callers_in_a_hurry_take_the_store_from_nobody() -> None:
    stage, store = ReadFeatures(0.5, LastFeatures(1 << 20, 60)), SlowStore(0.02)
    for _ in range(5):  # which leaves it 3 ms each time
        with pytest.raises(StageFailedError) as raised:
            await read(stage, store, 0.02)
        assert raised.value.reason == "skipped"
    assert (await read(stage, store)).watched_keys == [1]
    assert skipped() == 0


async def test_a_store_that_hangs_is_skipped_once_callers_had_time_for_it() -> None:
    stage, store = ReadFeatures(0.05, LastFeatures(1 << 20, 60)), SlowStore(60)
    reasons = []
    for _ in range(4):
        with pytest.raises(StageFailedError) as raised:
            await read(stage, store)
        reasons.append(raised.value.reason)
    assert reasons == [*["timeout"] * 3, "circuit_open"]
    assert skipped() == 1


async def test_a_store_that_fails_is_skipped_until_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(viewer, "PAUSE_SECONDS", 0.0)
    stage, store = ReadFeatures(20, LastFeatures(1 << 20, 60)), Store()
    for _ in range(3):
        with pytest.raises(StageFailedError, match="away"):
            await read(stage, store)
    assert skipped() == 1
    with pytest.raises(StageFailedError, match="away"):
        await read(stage, store)  # which finds out whether it is back
    store.fails = False
    await read(stage, store)
    assert skipped() == 0


async def test_failures_between_reads_that_succeed_are_chance() -> None:
    stage, store = ReadFeatures(20, LastFeatures(1 << 20, 60)), Store()
    for _ in range(2):
        for _ in range(2):
            with pytest.raises(StageFailedError, match="away"):
                await read(stage, store)
        store.fails = False
        await read(stage, store)
        store.fails = True
    assert skipped() == 0


async def test_a_batch_that_gives_up_leaves_the_store_as_viewers_see_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(viewer, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(batch, "PATIENCE_SECONDS", -1.0)
    stage, before = ReadFeatures(20), skipped()
    for _ in range(4):
        with pytest.raises(RpcError, match="features has failed"):
            await batch.repeated("features", lambda: read(stage, Store()))
    assert skipped() == before
