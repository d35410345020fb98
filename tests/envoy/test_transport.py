"""Pods that are served by pygrpc-native, behind the real Envoy: its health checks and its calls."""

from __future__ import annotations

from pathlib import Path

import grpc
import grpc.aio
import pytest
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

from server.rpc import transport
from server.rpc.settings import RpcSettings
from tests.builders.edge import running_edge

pytestmark = pytest.mark.integration


async def test_envoy_finds_native_pods_healthy_and_brings_calls_and_errors_through(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VIREO_TRANSPORT", "native")
    native: list[grpc.aio.Server] = []

    def native_server(settings: RpcSettings) -> grpc.aio.Server:
        native.append(transport.native_server(settings))
        return native[-1]

    monkeypatch.setattr("server.rpc.server.native_server", native_server)
    async with (
        running_edge(tmp_path, gateway_count=1) as edge,
        grpc.aio.insecure_channel(edge.address) as channel,
    ):
        stub = RecommendationServiceStub(channel)
        assert len(native) == len(edge.gateways) + len(edge.candidates)
        await stub.Recommend(pb.RecommendRequest(viewer_id="a"), timeout=20)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Recommend(pb.RecommendRequest(), timeout=20)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert dict(raised.value.trailing_metadata())["grpc-status-details-bin"]
