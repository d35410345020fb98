"""What a client is sent when it changes what it asks for, as the xDS protocol has it."""

from __future__ import annotations

import pytest
from envoy.service.discovery.v3 import discovery_pb2 as pb

from tests.builders.xds import xds_client
from tests.server.control.conftest import Server
from vireo.server.control.snapshot import CLUSTER, LISTENER, ROUTES


@pytest.mark.parametrize("acknowledged", ["first", "after it was left", "in the end"])
async def test_a_name_that_is_dropped_and_asked_for_again_is_sent_again(
    server: Server, acknowledged: str
) -> None:
    server.publish({"r-a": "1", "r-b": "1"})
    async with xds_client(server.port) as client:
        await client.ask(ROUTES, "r-a", "r-b")
        both = await client.receive()
        if acknowledged == "first":
            await client.take(both)
        await client.leave(ROUTES, "r-b")
        if acknowledged == "after it was left":
            await client.take(both)
        await client.ask(ROUTES, "r-b")
        if acknowledged == "in the end":
            await client.take(both)
        assert (await client.taken()).names == {"r-b"}
        assert await client.hears_nothing()


async def test_a_cluster_that_is_dropped_and_asked_for_again_is_sent_again(server: Server) -> None:
    server.publish({"c-a": "1", "c-b": "1"})
    async with xds_client(server.port) as client:
        await client.ask(CLUSTER, "c-a", "c-b")
        both = await client.receive()
        await client.leave(CLUSTER, "c-b")
        await client.ask(CLUSTER, "c-b")
        await client.take(both)
        assert (await client.taken()).names == {"c-b"}
        assert await client.hears_nothing()


@pytest.mark.parametrize("stream", ["the same", "another"])
async def test_a_nacked_resource_is_resent_once_if_the_client_resubscribes(
    server: Server, stream: str
) -> None:
    server.publish({"r-a": "1"})
    async with xds_client(server.port) as client:
        await client.ask(ROUTES, "r-a")
        await client.refuse(await client.receive(), "no such type in this version")
        if stream == "the same":
            await client.leave(ROUTES, "r-a")
            await client.ask(ROUTES, "r-a")
            assert (await client.taken()).names == {"r-a"}
        else:
            assert await client.hears_nothing()
    if stream == "another":
        async with xds_client(server.port) as client:
            await client.ask(ROUTES, "r-a")
            await client.refuse(await client.receive(), "nor in this one")
            assert await client.hears_nothing()


async def test_all_are_sent_to_a_client_that_asks_for_all_again(server: Server) -> None:
    server.publish({"c-a": "1", "c-b": "1"})
    async with xds_client(server.port) as client:
        await client.ask(CLUSTER, "*")
        all_of_them = await client.receive()
        await client.leave(CLUSTER, "*")
        await client.ask(CLUSTER, "*")
        await client.take(all_of_them)
        assert (await client.taken()).names == {"c-a", "c-b"}
        assert await client.hears_nothing()


async def test_a_client_is_told_whether_a_name_that_it_leaves_is_among_all(
    server: Server,
) -> None:
    server.publish({"l": "1"})
    async with xds_client(server.port) as client:
        await client.ask(LISTENER, "*", "l", "l-none")
        response = await client.taken()
        assert response.names == {"l"}
        assert response.removed == {"l-none"}
        await client.leave(LISTENER, "l")
        assert (await client.taken()).names == {"l"}
        await client.leave(LISTENER, "l-none")
        assert (await client.taken()).removed == {"l-none"}
        assert await client.hears_nothing()


async def test_the_server_reads_initial_resource_versions_in_the_first_request_only(
    server: Server,
) -> None:
    server.publish({"c-a": "1"})
    async with xds_client(server.port) as client:
        await client.ask(CLUSTER)
        await client.taken()
        await client.ask(CLUSTER, has={"c-a": "another", "c-x": "1"})
        assert await client.hears_nothing()


async def test_an_empty_first_request_is_a_wildcard_whatever_its_nonce(
    server: Server,
) -> None:
    server.publish({"c-a": "1"})
    async with xds_client(server.port) as client:
        await client.send(pb.DeltaDiscoveryRequest(type_url=CLUSTER, response_nonce="of before"))
        assert (await client.taken()).names == {"c-a"}
