"""An edge that the files of this folder share unless they need one of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from tests.builders.edge import Edge, RestAnswer, running_edge
from tests.builders.tokens import Tokens
from vireo.server.security.folder import SecurityFolder
from vireo.server.security.tokens import TokenSigner
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

RATE = 20
"""Calls a second that each caller of `guarded` may make."""
SCOPES = {
    "vireo.read",
    "vireo.batch",
    "vireo.explain",
    "vireo.events",
    "vireo.catalog",
    "vireo.admin",
}
DEFAULT_DEADLINE = 7.5
"""Seconds that a caller who says nothing has."""


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """An edge before one gateway; who changes how that answers changes it back."""
    control = {"default_deadline": DEFAULT_DEADLINE}
    async with running_edge(tmp_path_factory.mktemp("edge"), 1, control=control) as edge:
        yield edge


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def slates(edge: Edge) -> AsyncIterator[RecommendationServiceStub]:
    """A stub of the edge for slates."""
    async with grpc.aio.insecure_channel(edge.address) as channel:
        yield RecommendationServiceStub(channel)


@dataclass(frozen=True)
class Guarded:
    """An edge that asks for tokens, and who makes them."""

    edge: Edge
    channel: grpc.aio.Channel
    tokens: Tokens

    async def recommend(self, token: str | None) -> pb.RecommendResponse:
        stub = RecommendationServiceStub(self.channel)
        return await stub.Recommend(
            pb.RecommendRequest(viewer_id="1"), timeout=30, metadata=bearer(token)
        )

    async def code(self, token: str | None) -> grpc.StatusCode:
        try:
            await self.recommend(token)
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details()
        else:
            return grpc.StatusCode.OK
        assert details
        assert "{" not in details, "JSON is for REST"
        return code

    async def raw_code(self, method: str, token: str | None) -> grpc.StatusCode:
        """What a method answers, whichever it is, to an empty request."""
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(method)
        return await call(b"", metadata=bearer(token), timeout=30).code()

    async def rest(
        self, token: str | None, path: str = "/v1/viewers/1/recommendations", body: Any = None
    ) -> RestAnswer:
        return await self.edge.rest(path, body, headers=dict(bearer(token)))


def bearer(token: str | None) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token is not None else ()


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    folder = SecurityFolder(tmp_path_factory.mktemp("security"))
    TokenSigner(folder).ensure()
    control = {"jwks": str(folder.jwks), "rate_limit": RATE}
    async with (
        running_edge(tmp_path_factory.mktemp("edge"), 1, control=control) as edge,
        grpc.aio.insecure_channel(edge.address) as channel,
    ):
        yield Guarded(edge, channel, Tokens(folder))
