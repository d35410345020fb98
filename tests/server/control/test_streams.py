"""What one peer, careless or hostile, may use of a control plane."""

from __future__ import annotations

from contextlib import AsyncExitStack

import grpc.aio
import pytest
from envoy.service.discovery.v3 import discovery_pb2 as pb
from google.rpc.status_pb2 import Status

from tests.builders.waiting import until
from tests.builders.xds import XdsClient, xds_client
from tests.server.control.conftest import Server
from vireo.server.control.ads import Limits
from vireo.server.control.clients import MAX_GONE_NODES, Clients
from vireo.server.control.session import MAX_MESSAGE_LENGTH, Session
from vireo.server.control.snapshot import CLUSTER, ROUTES
from vireo.server.control.subscription import MAX_NAME_LENGTH, MAX_NAMES


@pytest.mark.parametrize("limits", [Limits(all=2), Limits(all=9, address=2)])
async def test_streams_beyond_the_limit_are_rejected_and_others_continue(
    server: Server, limits: Limits
) -> None:
    servicer = server.servicer
    servicer.limits = limits
    server.publish({"c-a": "1"})
    async with AsyncExitStack() as stack:
        clients = []
        for node in ("a", "b"):
            client = xds_client(server.port, node=node)
            clients.append(await stack.enter_async_context(client))
            await clients[-1].ask(CLUSTER)
            await clients[-1].taken()
        refused = await stack.enter_async_context(xds_client(server.port))
        with pytest.raises(grpc.aio.AioRpcError, match="streams"):
            await refused.receive()
        server.publish({"c-a": "2"})
        assert (await clients[0].taken()).names == {"c-a"}
        clients[1].end()
        await until(lambda: servicer.streams.total() == 1)
        another = await stack.enter_async_context(xds_client(server.port))
        await another.ask(CLUSTER)
        assert (await another.taken()).names == {"c-a"}
    await until(lambda: servicer.streams.total() == 0)


async def test_a_stream_that_says_nothing_is_ended(server: Server) -> None:
    server.servicer.limits = Limits(all=2, first_request_seconds=0.05)
    async with xds_client(server.port) as client:
        with pytest.raises(grpc.aio.AioRpcError, match="no request was received"):
            await client.receive()
    await until(lambda: server.servicer.streams.total() == 0)


@pytest.mark.parametrize("node", ["n" * 300, "a\nb", "\x1b[2J"])
async def test_a_node_id_that_is_long_or_unprintable_is_refused(server: Server, node: str) -> None:
    async with xds_client(server.port, node=node) as client:
        await client.ask(CLUSTER)
        with pytest.raises(grpc.aio.AioRpcError, match=r"node\.id"):
            await client.receive()
    assert server.servicer.clients.all() == []


async def receive_all(client: XdsClient) -> None:
    """Receives until the stream fails."""
    while True:
        await client.receive()


async def test_a_stream_that_names_more_than_there_could_be_is_ended(server: Server) -> None:
    server.publish({"r-a": "1"})
    half = MAX_NAMES // 2 + 1
    for names in (["x" * (MAX_NAME_LENGTH + 1)], [f"r-{each}" for each in range(2 * half)]):
        async with xds_client(server.port) as client:
            for some in filter(None, (names[:half], names[half:])):
                await client.ask(ROUTES, *some)
            with pytest.raises(grpc.aio.AioRpcError, match="more than"):
                await receive_all(client)


async def test_of_the_words_of_a_refusal_only_some_are_kept(server: Server) -> None:
    server.publish({"c-a": "1"})
    async with xds_client(server.port) as client:
        await client.ask(CLUSTER)
        await client.refuse(await client.receive(), "no " * 500_000)
        [(node, *_)] = server.servicer.clients.all()
        await until(lambda: bool(node.nacked(CLUSTER)))
        assert len(node.nacked(CLUSTER)["c-a"].message) == MAX_MESSAGE_LENGTH


def test_a_node_with_a_stream_is_never_forgotten_however_many_come_and_go() -> None:
    clients = Clients()

    def begin(identity: str) -> Session:
        return clients.begin(identity, "", "")

    lasting = begin("lasting")
    for number in range(MAX_GONE_NODES + 5):
        clients.end(begin(f"passing-{number}"))
    known = {client.node.identity for client in clients.all()}
    assert "lasting" in known
    assert len(known) == 1 + MAX_GONE_NODES
    assert "passing-4" not in known, "the first that went is the first that is forgotten"
    clients.end(lasting)
    assert len(clients.all()) == MAX_GONE_NODES


async def test_a_request_that_makes_no_sense_ends_no_other_stream(server: Server) -> None:
    server.publish({"c-a": "1"})
    async with xds_client(server.port) as client:
        await client.ask(CLUSTER)
        await client.taken()
        async with xds_client(server.port, node="odd") as odd:
            await odd.send(
                pb.DeltaDiscoveryRequest(
                    type_url="nonsense",
                    response_nonce="x",
                    error_detail=Status(message="y"),
                    resource_names_unsubscribe=["never had"],
                )
            )
            assert await odd.hears_nothing()
        server.publish({"c-a": "2"})
        assert (await client.taken()).names == {"c-a"}
