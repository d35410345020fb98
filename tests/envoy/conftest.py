"""An edge for each module, and what calls it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc.aio
import pytest
import pytest_asyncio

from tests.builders.edge import Edge, running_edge
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def edge(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Edge]:
    """An edge before as many gateways as the module's GATEWAYS, one by default.

    The module's CONTROL has settings of the control plane.
    """
    gateways, control = (getattr(request.module, name, None) for name in ("GATEWAYS", "CONTROL"))
    folder = tmp_path_factory.mktemp("edge")
    async with running_edge(folder, gateways or 1, control=control) as edge:
        yield edge


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def channel(edge: Edge) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the edge."""
    async with grpc.aio.insecure_channel(edge.address) as channel:
        yield channel


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def slates(channel: grpc.aio.Channel) -> RecommendationServiceStub:
    """A stub of the edge for slates."""
    return RecommendationServiceStub(channel)
