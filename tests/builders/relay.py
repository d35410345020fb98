"""An inner pod that has a real one answer, and does to its answers what real ones never do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import grpc.aio

from tests.builders.rpc import bare_server
from vireo.v1.candidate_pb2_grpc import (
    CandidateServiceServicer,
    CandidateServiceStub,
    add_CandidateServiceServicer_to_server,
)
from vireo.v1.ranking_pb2_grpc import (
    RankingServiceServicer,
    RankingServiceStub,
    add_RankingServiceServicer_to_server,
)


@dataclass
class Relay(CandidateServiceServicer, RankingServiceServicer):
    """Passes calls on. What it does to them can be changed at any time."""

    pod: str
    """host:port of the real pod."""
    change: Callable[[Any], object] = lambda _: None
    """Changes an answer in place."""
    delay: float = 0.0
    """Seconds to wait before a request is passed on."""
    code: grpc.StatusCode | None = None
    """With what to refuse calls."""
    requests: list[Any] = field(default_factory=list)
    """All that came."""
    metadata: list[dict[str, Any]] = field(default_factory=list)
    """What each came with."""
    time_left: list[float] = field(default_factory=list)
    """How many seconds each had."""

    async def RetrieveCandidates(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._pass_on(CandidateServiceStub, "RetrieveCandidates", request, context)

    async def RankCandidates(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._pass_on(RankingServiceStub, "RankCandidates", request, context)

    async def _pass_on(self, stub: Any, method: str, request: Any, context: Any) -> Any:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.time_left.append(context.time_remaining())
        if self.code is not None:
            await context.abort(self.code, "refused")
        await asyncio.sleep(self.delay)
        async with grpc.aio.insecure_channel(self.pod) as channel:
            answer = await getattr(stub(channel), method)(request)
        self.change(answer)
        return answer


def relaying(relay: Relay) -> AbstractAsyncContextManager[str]:
    """Where it answers, as either kind of pod."""
    return bare_server(
        partial(add_CandidateServiceServicer_to_server, relay),
        partial(add_RankingServiceServicer_to_server, relay),
    )
