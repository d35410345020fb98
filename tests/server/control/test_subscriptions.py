"""What a client is sent when it changes what it asks for, as the xDS protocol has it."""

from __future__ import annotations

import pytest
from envoy.config.listener.v3.api_listener_pb2 import ApiListener
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.service.discovery.v3 import discovery_pb2 as pb

from server.control.snapshot import CLUSTER, LISTENER, ROUTES, Snapshot
from tests.builders.xds import XdsClient, xds_client
from tests.server.control.conftest import Server


async def ask_whole(client: XdsClient, *names: str) -> None:
    """In state of the world: asks for exactly these clusters from now on."""
    await client.send(pb.DiscoveryRequest(type_url=CLUSTER, resource_names=names))


@pytest.mark.parametrize("acknowledged", ["first", "after it was left", "in the end"])
async def test_a_name_that_is_dropped_and_asked_for_again_is_sent_again(
    server: Server, acknowledged: str, *, delta: bool
) -> None:
    server.publish({"r-a": "1", "r-b": "1"})
    async with xds_client(server.port, delta=delta) as client:
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


async def test_a_cluster_that_is_dropped_and_asked_for_again_is_sent_again(
    server: Server, *, delta: bool
) -> None:
    server.publish({"c-a": "1", "c-b": "1"})
    async with xds_client(server.port, delta=delta) as client:
        await client.ask(CLUSTER, "c-a", "c-b")
        both = await client.receive()
        await client.leave(CLUSTER, "c-b")
        await client.ask(CLUSTER, "c-b")
        await client.take(both)
        # In state of the world a response about clusters has all of them.
        assert (await client.taken()).names == ({"c-b"} if delta else {"c-a", "c-b"})
        assert await client.hears_nothing()


@pytest.mark.parametrize("stream", ["the same", "another"])
async def test_a_nacked_resource_is_resent_once_if_the_client_resubscribes(
    server: Server, stream: str, *, delta: bool
) -> None:
    server.publish({"r-a": "1"})
    async with xds_client(server.port, delta=delta) as client:
        await client.ask(ROUTES, "r-a")
        await client.refuse(await client.receive(), "no such type in this version")
        if stream == "the same":
            await client.leave(ROUTES, "r-a")
            await client.ask(ROUTES, "r-a")
            assert (await client.taken()).names == {"r-a"}
        else:
            assert await client.hears_nothing()
    if stream == "another":
        async with xds_client(server.port, delta=delta) as client:
            await client.ask(ROUTES, "r-a")
            await client.refuse(await client.receive(), "nor in this one")
            assert await client.hears_nothing()


async def test_state_of_the_world_ends_asking_for_all_once_a_name_was_asked_for(
    server: Server,
) -> None:
    server.publish({"c-a": "1", "c-b": "1"})
    async with xds_client(server.port, delta=False) as client:
        await client.ask(CLUSTER)
        assert (await client.taken()).names == {"c-a", "c-b"}
        await ask_whole(client, "*", "c-a")
        assert (await client.taken()).names == {"c-a", "c-b"}
        await ask_whole(client, "c-a")
        server.publish({"c-a": "2", "c-b": "2"})
        assert (await client.receive()).names == {"c-a"}
        await ask_whole(client)
        server.publish({"c-a": "3", "c-b": "3"})
        assert await client.hears_nothing(), "no names mean all only before any was asked for"


async def test_all_are_sent_to_a_client_that_asks_for_all_again(
    server: Server, *, delta: bool
) -> None:
    server.publish({"c-a": "1", "c-b": "1"})
    async with xds_client(server.port, delta=delta) as client:
        await client.ask(CLUSTER, "*")
        all_of_them = await client.receive()
        await client.leave(CLUSTER, "*")
        await client.ask(CLUSTER, "*")
        await client.take(all_of_them)
        assert (await client.taken()).names == {"c-a", "c-b"}
        assert await client.hears_nothing()


async def test_delta_says_of_a_name_that_is_left_whether_it_is_among_all(server: Server) -> None:
    server.servicer.publish(
        Snapshot.of([Listener(name="l"), Listener(name="l-api", api_listener=ApiListener())])
    )
    async with xds_client(server.port, delta=True) as client:
        await client.ask(LISTENER, "*", "l", "l-api")
        assert (await client.taken()).names == {"l", "l-api"}
        await client.leave(LISTENER, "l")
        assert (await client.taken()).names == {"l"}
        await client.leave(LISTENER, "l-api")
        assert (await client.taken()).removed == {"l-api"}
        assert await client.hears_nothing()


async def test_delta_reads_initial_resource_versions_in_the_first_request_only(
    server: Server,
) -> None:
    server.publish({"c-a": "1"})
    async with xds_client(server.port, delta=True) as client:
        await client.ask(CLUSTER)
        await client.taken()
        await client.ask(CLUSTER, has={"c-a": "another", "c-x": "1"})
        assert await client.hears_nothing()


async def test_an_empty_first_delta_request_is_a_wildcard_whatever_its_nonce(
    server: Server,
) -> None:
    server.publish({"c-a": "1"})
    async with xds_client(server.port, delta=True) as client:
        await client.send(pb.DeltaDiscoveryRequest(type_url=CLUSTER, response_nonce="of before"))
        assert (await client.taken()).names == {"c-a"}
