"""Mutual TLS between Envoy, pods and the control plane, and certificates renewed as they run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from tests.builders.certificates import role_files, serial, shown_serial
from tests.builders.edge import Edge, running_edge
from vireo.server.rpc.tls import TlsFiles, open_channel
from vireo.server.security.certificates import Authority, Certificates
from vireo.v1 import candidate_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.candidate_pb2_grpc import CandidateServiceStub
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

CANDIDATES = candidate_pb2.RetrieveCandidatesRequest(viewer=viewer_pb2.ViewerFeatures(), count=1)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path_factory.mktemp("edge"), 1, secure=True) as edge:
        yield edge


def files(edge: Edge, role: str) -> TlsFiles:
    return edge.settings.security.tls(role)


async def candidates(edge: Edge, tls: TlsFiles | None) -> grpc.StatusCode:
    """What the inner listener before candidate pods answers."""
    target = f"127.0.0.1:{edge.settings.candidate_port}"
    async with open_channel(target, tls, "envoy") as channel:
        call = CandidateServiceStub(channel).RetrieveCandidates(CANDIDATES, timeout=30)
        return await call.code()


async def recommend(edge: Edge) -> grpc.StatusCode:
    roots = files(edge, "edge").authority.read_bytes()
    credentials = grpc.ssl_channel_credentials(roots)
    async with grpc.aio.secure_channel(edge.address, credentials) as channel:
        stub = RecommendationServiceStub(channel)
        return await stub.Recommend(pb.RecommendRequest(viewer_id="1"), timeout=30).code()


async def test_callers_reach_a_gateway_by_tls_and_gateways_pods_by_mutual_tls(edge: Edge) -> None:
    assert await recommend(edge) is grpc.StatusCode.OK
    assert await candidates(edge, files(edge, "gateway")) is grpc.StatusCode.OK


async def test_an_inner_listener_refuses_strangers_and_counts_them(
    edge: Edge, tmp_path: Path
) -> None:
    roots = files(edge, "gateway").authority
    signer = Certificates(edge.settings.security).signing_authority()
    ended = datetime.now(UTC) - timedelta(seconds=1)
    listener = f"listener.127.0.0.1_{edge.settings.candidate_port}.ssl"
    for stranger, stat in (
        (
            role_files(tmp_path / "a", Authority.new("other"), "gateway", trusts=roots),
            "verify_error",
        ),
        (role_files(tmp_path / "b", signer, "gateway", trusts=roots, ends=ended), "verify_error"),
        (files(edge, "control"), "verify_san"),
    ):
        before = await edge.stat(f"{listener}.fail_{stat}")
        assert await candidates(edge, stranger) is grpc.StatusCode.UNAVAILABLE
        assert await edge.stat(f"{listener}.fail_{stat}") > before
    before = await edge.stat(f"{listener}.connection_error")
    assert await candidates(edge, None) is grpc.StatusCode.UNAVAILABLE
    assert await edge.stat(f"{listener}.connection_error") > before


async def test_renewed_certificates_are_taken_up_without_a_restart(edge: Edge) -> None:
    settings = edge.settings
    Certificates(settings.security).renew([])
    operator = files(edge, "operator")
    for role, port in (
        ("edge", settings.edge_port),
        ("envoy", settings.candidate_port),
        ("candidate", settings.candidate_pod_port),
        ("control", settings.control_port),
    ):
        wanted = serial(files(edge, role))
        async with asyncio.timeout(30):
            while await asyncio.to_thread(shown_serial, port, role, operator) != wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    assert await recommend(edge) is grpc.StatusCode.OK
    assert await candidates(edge, files(edge, "gateway")) is grpc.StatusCode.OK
