"""Reads of features skip a store that fails, and those that viewers wait for say so."""

from __future__ import annotations

import time
from typing import Any

import pytest
from prometheus_client import REGISTRY
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.viewer_pb2 import ViewerFeatures

from server.gateway import circuit
from server.gateway.last_features import LastFeatures
from server.gateway.query import RecommendQuery
from server.gateway.stages import patient
from server.gateway.stages.failure import StageFailedError
from server.gateway.stages.patient import PatientRead
from server.gateway.stages.read_features import ReadFeatures
from server.rpc.errors import RpcError


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


async def read(stage: ReadFeatures, store: Any) -> ViewerFeatures:
    query = RecommendQuery.of(pb.RecommendRequest(viewer_id="v"), "id", time.monotonic() + 60)
    return await stage(query, store)


async def test_a_store_that_fails_is_skipped_until_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(circuit, "PAUSE_SECONDS", 0.0)
    stage, store = ReadFeatures(20, LastFeatures(1 << 20, 60)), Store()
    for _ in range(3):
        with pytest.raises(StageFailedError, match="away"):
            await read(stage, store)
    assert skipped() == 1
    store.fails = False
    await read(stage, store)
    assert skipped() == 0


async def test_a_batch_that_gives_up_leaves_the_store_as_viewers_see_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(circuit, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(patient, "PATIENCE_SECONDS", -1.0)
    stage, before = PatientRead(20), skipped()
    for _ in range(3):
        with pytest.raises(RpcError, match="features has failed"):
            await read(stage, Store())
    assert stage._circuit.open
    assert skipped() == before
