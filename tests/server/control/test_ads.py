"""The discovery service as its clients meet it."""

from __future__ import annotations

import grpc
import pytest
from envoy.service.discovery.v3 import ads_pb2_grpc
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc

from tests.builders.xds import XdsClient, xds_client
from tests.server.control.conftest import Server
from vireo.server.control.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTES


async def follow(client: XdsClient) -> None:
    """Ask for all as Envoy does, and ACK it: clusters a and b, a listener and its routes."""
    await client.ask(CLUSTER)
    assert (await client.taken()).kind == CLUSTER
    await client.ask(ENDPOINTS, "c-a")
    assert (await client.taken()).names == {"c-a"}
    await client.ask(LISTENER)
    assert (await client.taken()).names == {"l"}
    await client.ask(ROUTES, "r")
    assert (await client.taken()).names == {"r"}


async def states(port: int) -> dict[str, tuple[str, str]]:
    """The status by CSDS, and the words of a refusal, of each resource of the one client."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(channel)
        [config] = (await stub.FetchClientStatus(csds_pb2.ClientStatusRequest())).config
    return {
        f"{each.type_url.rpartition('.')[2]} {each.name}": (
            csds_pb2.ConfigStatus.Name(each.config_status),
            each.error_state.details,
        )
        for each in config.generic_xds_configs
    }


async def test_a_client_is_given_all_clusters_and_the_endpoints_that_it_names(
    server: Server,
) -> None:
    server.publish({"c-a": "1", "c-b": "1", "l": "1", "r": "1"})
    async with xds_client(server.port) as client:
        await client.ask(CLUSTER)
        assert (await client.taken()).names == {"c-a", "c-b"}
        await client.ask(ENDPOINTS, "c-a")
        assert (await client.taken()).names == {"c-a"}
        await client.ask(ENDPOINTS, "c-b")
        assert (await client.taken()).names == {"c-b"}
        assert await client.hears_nothing()


async def test_only_changed_resources_are_sent_again(server: Server) -> None:
    server.publish({"c-a": "1", "l": "1", "r": "1"})
    async with xds_client(server.port) as client:
        await follow(client)
        server.publish({"c-a": "1", "l": "1", "r": "2"})
        assert (await client.taken()).names == {"r"}
        assert await client.hears_nothing()


async def test_a_new_cluster_is_taken_before_the_routes_to_it_are_sent(server: Server) -> None:
    server.publish({"c-a": "1", "l": "1", "r": "to a"})
    async with xds_client(server.port) as client:
        await follow(client)
        server.publish({"c-a": "1", "c-b": "1", "l": "1", "r": "to b"})
        clusters = await client.receive()
        assert clusters.kind == CLUSTER
        # As Envoy does: its cluster is warm, and acknowledged, once it has endpoints.
        await client.ask(ENDPOINTS, "c-b")
        assert (await client.taken()).kind == ENDPOINTS
        await client.take(clusters)
        assert (await client.taken()).kind == ROUTES


async def test_a_cluster_is_removed_only_after_its_routes(server: Server) -> None:
    server.publish({"c-a": "1", "c-b": "1", "l": "1", "r": "to b"})
    async with xds_client(server.port) as client:
        await follow(client)
        server.publish({"c-a": "1", "l": "1", "r": "to a"})
        assert (await client.taken()).kind == ROUTES
        removal = await client.taken()
        assert removal.kind == CLUSTER
        assert not removal.names
        assert removal.removed == {"c-b"}


async def test_a_removal_that_is_refused_is_not_insisted_on(server: Server) -> None:
    server.publish({"c-a": "1", "c-b": "1"})
    async with xds_client(server.port) as client:
        await client.ask(CLUSTER)
        await client.taken()
        server.publish({"c-a": "1"})
        await client.refuse(await client.receive(), "I need it")
        assert await client.hears_nothing()


@pytest.mark.parametrize("words", ["c-x: no such type", "no such type"])
async def test_a_removal_beside_a_cluster_that_is_refused_is_not_insisted_on(
    server: Server, words: str
) -> None:
    server.publish({"c-a": "1", "c-b": "1"})
    async with xds_client(server.port) as client:
        await client.ask(CLUSTER)
        await client.taken()
        server.publish({"c-a": "1", "c-b": "1", "c-x": "1"})
        await client.refuse(await client.receive(), words)
        server.publish({"c-a": "1", "c-x": "1"})
        removal = await client.receive()
        assert removal.names == frozenset()
        await client.refuse(removal, words)
        assert await client.hears_nothing()


async def test_a_nack_of_a_previously_acked_version_is_not_resent(server: Server) -> None:
    server.publish({"c-a": "1", "r": "1"})
    for kind, name in ((CLUSTER, "c-a"), (ROUTES, "r")):
        async with xds_client(server.port) as client:
            await client.ask(kind, name)
            await client.taken()
        async with xds_client(server.port) as client:
            await client.ask(kind, name)
            await client.refuse(await client.receive(), "no such type in this version")
            assert await client.hears_nothing()


async def test_a_cluster_stays_while_the_client_refuses_to_turn_from_it(server: Server) -> None:
    server.publish({"c-a": "1", "c-b": "1", "l": "1", "r": "to b"})
    async with xds_client(server.port) as client:
        await follow(client)
        server.publish({"c-a": "1", "l": "1", "r": "to nowhere"})
        await client.refuse(await client.receive(), "no such cluster")
        assert await client.hears_nothing()


async def test_a_nack_is_shown_with_its_reason_and_resent_only_after_a_change(
    server: Server,
) -> None:
    server.publish({"c-a": "1", "l": "1", "r": "good"})
    async with xds_client(server.port) as client:
        await follow(client)
        server.publish({"c-a": "1", "l": "1", "r": "bad"})
        await client.refuse(await client.receive(), "duplicate route")
        # Another kind goes on; the refused resource doesn't come again with it.
        server.publish({"c-a": "2", "l": "1", "r": "bad"})
        assert (await client.taken()).kind == CLUSTER
        assert (await client.taken()).kind == ENDPOINTS
        shown = await states(server.port)
        assert shown["RouteConfiguration r"] == ("ERROR", "duplicate route")
        assert shown["Cluster c-a"] == ("SYNCED", "")
        server.publish({"c-a": "2", "l": "1", "r": "mended"})
        assert (await client.taken()).names == {"r"}
        assert await client.hears_nothing()


async def test_a_reconnecting_client_gets_its_last_acked_version(server: Server) -> None:
    server.publish({"c-a": "1", "l": "1", "r": "good"})
    async with xds_client(server.port) as client:
        await follow(client)
        [good] = [each.body for each in server.servicer.snapshot.resources[ROUTES].values()]  # type: ignore[union-attr]
        server.publish({"c-a": "1", "l": "1", "r": "bad"})
        await client.refuse(await client.receive(), "duplicate route")
        assert await client.hears_nothing()
    async with xds_client(server.port) as client:
        await client.ask(ROUTES, "r")
        assert (await client.receive()).bodies == (good,)


async def test_of_several_listeners_only_the_one_that_the_words_name_is_refused(
    server: Server,
) -> None:
    server.publish({"l-a": "1", "l-b": "1"})
    async with xds_client(server.port) as client:
        await client.ask(LISTENER)
        words = "Error adding/updating listener(s) l-b: malformed address"
        await client.refuse(await client.receive(), words)
        server.publish({"l-a": "2", "l-b": "1"})
        response = await client.receive()
        await client.refuse(response, words)
        server.publish({"l-a": "3", "l-b": "1"})
        response = await client.taken()
        assert response.names == {"l-a"}
        assert await client.hears_nothing()


async def test_a_rejected_route_configuration_is_found_by_sending_each_alone(
    server: Server,
) -> None:
    server.publish({"r-a": "1", "r-b": "1", "r-c": "1"})
    async with xds_client(server.port) as client:
        await client.ask(ROUTES, "r-a", "r-b", "r-c")
        await client.refuse(await client.receive(), "bad")
        taken: set[str] = set()
        for _ in range(3):
            response = await client.receive()
            if response.names == {"r-b"}:
                await client.refuse(response, "bad")
            else:
                taken |= response.names
                await client.take(response)
        assert taken == {"r-a", "r-c"}
        assert await client.hears_nothing()
    assert (await states(server.port))["RouteConfiguration r-b"] == ("ERROR", "bad")


async def test_equal_content_has_an_equal_version(server: Server) -> None:
    versions = set()
    for _ in range(2):
        server.publish({"c-a": "1", "l": "1"})
        async with xds_client(server.port) as client:
            await client.ask(CLUSTER)
            versions.add((await client.taken()).version)
    assert len(versions) == 1


async def test_a_wildcard_subscription_to_an_empty_type_is_answered(server: Server) -> None:
    server.publish({"r": "1"})
    async with xds_client(server.port) as client:
        await client.ask(CLUSTER)
        assert (await client.taken()).names == frozenset()


async def test_a_reconnecting_client_is_sent_only_missing_resources(server: Server) -> None:
    server.publish({"c-a": "1", "c-b": "1"})
    assert server.servicer.snapshot is not None
    has = {"c-a": server.servicer.snapshot.resources[CLUSTER]["c-a"].version, "c-old": "1"}
    async with xds_client(server.port) as client:
        await client.ask(CLUSTER, has=has)
        assert (await client.taken()).names == {"c-b"}
        assert (await client.taken()).removed == {"c-old"}


async def test_the_endpoints_of_an_updated_cluster_are_sent_again(
    server: Server,
) -> None:
    server.publish({"c-a": "2", "c-b": "1"})
    assert server.servicer.snapshot is not None
    resources = server.servicer.snapshot.resources
    kept = {name: each.version for name, each in resources[ENDPOINTS].items()}
    has = {"c-a": "of before", "c-b": resources[CLUSTER]["c-b"].version}
    async with xds_client(server.port) as client:
        await client.ask(CLUSTER, has=has)
        clusters = await client.receive()
        assert clusters.names == {"c-a"}
        await client.ask(ENDPOINTS, "c-a", "c-b", has=kept)
        assert (await client.taken()).names == {"c-a"}
        await client.take(clusters)
        assert await client.hears_nothing()


async def test_a_missing_name_is_reported_and_sent_once_it_exists(
    server: Server,
) -> None:
    server.publish({"r": "1"})
    async with xds_client(server.port) as client:
        await client.ask(ROUTES, "r-new")
        assert (await client.taken()).removed == {"r-new"}
        server.publish({"r": "1", "r-new": "1"})
        assert (await client.taken()).names == {"r-new"}


async def test_a_name_that_is_left_is_sent_no_more(server: Server) -> None:
    server.publish({"c-a": "1", "r-a": "1", "r-b": "1"})
    async with xds_client(server.port) as client:
        await client.ask(ROUTES, "r-a", "r-b")
        await client.taken()
        await client.leave(ROUTES, "r-a")
        # Nothing answers that; what is asked later is answered once it has been heard.
        await client.ask(CLUSTER)
        assert (await client.taken()).names == {"c-a"}
        server.publish({"c-a": "1", "r-a": "2", "r-b": "2"})
        assert (await client.taken()).names == {"r-b"}
        assert await client.hears_nothing()


async def test_a_client_without_a_node_id_is_rejected(server: Server) -> None:
    async with xds_client(server.port, node="") as client:
        await client.ask(CLUSTER)
        with pytest.raises(grpc.aio.AioRpcError, match=r"node\.id"):
            await client.receive()


async def test_the_state_of_the_world_variant_is_not_served(server: Server) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel).StreamAggregatedResources()
        assert await call.code() == grpc.StatusCode.UNIMPLEMENTED
