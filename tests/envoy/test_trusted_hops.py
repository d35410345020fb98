"""By which address the edge counts a caller who has no token."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from tests.builders.edge import Edge, running_edge
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

pytestmark = pytest.mark.integration

RATE = 5
CALLS = 8 * RATE
_NUMBERS = itertools.count()


async def refused(edge: Edge, address: Callable[[int], str]) -> int:
    """How many calls at a time are refused, each with a number of its own in `x-forwarded-for`."""
    async with grpc.aio.insecure_channel(edge.address) as channel:
        stub = RecommendationServiceStub(channel)

        async def ask(forwarded: str) -> bool:
            metadata = (("x-forwarded-for", forwarded),)
            request = pb.RecommendRequest(viewer_id="1")
            code = await stub.Recommend(request, timeout=30, metadata=metadata).code()
            assert code in (grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED)
            return code is not grpc.StatusCode.OK

        sent = [address(next(_NUMBERS)) for _ in range(CALLS)]
        return sum(await asyncio.gather(*map(ask, sent)))


async def limited(edge: Edge, address: Callable[[int], str]) -> bool:
    """Whether the limit holds for calls from `address`, however slow the machine is."""
    for _ in range(20):
        if await refused(edge, address):
            return True
    return False


def ipv4(number: int) -> str:
    return str(ipaddress.IPv4Address((10 << 24) + number))


async def test_a_forwarded_address_is_not_believed_by_default(tmp_path: Path) -> None:
    async with running_edge(tmp_path, 1, control={"rate_limit": RATE}) as edge:
        assert await limited(edge, ipv4)


async def test_with_a_trusted_hop_the_address_that_it_adds_counts(tmp_path: Path) -> None:
    control = {"rate_limit": RATE, "trusted_hops": 1}
    async with running_edge(tmp_path, 1, control=control) as edge:
        # What the caller itself has sent stands before what the proxy adds.
        assert await limited(edge, lambda number: f"{ipv4(number)}, 198.51.100.1")
        assert not await limited(edge, ipv4)
        # Of an IPv6 address the first half: a caller has all of the other.
        assert await limited(edge, "2001:db8::{:x}".format)
        assert not await limited(edge, "2001:db8:0:{:x}::1".format)
