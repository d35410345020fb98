"""The discovery and status services as clients, careless and hostile ones too, meet them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from envoy.service.discovery.v3 import ads_pb2_grpc
from envoy.service.discovery.v3 import discovery_pb2 as pb
from envoy.service.status.v3 import csds_pb2
from google.rpc.status_pb2 import Status

from tests.builders.control import running_control
from tests.builders.waiting import until
from tests.builders.xds import xds_client
from tests.server.control.conftest import MAX_STREAMS, Server
from vireo.server.control import ads
from vireo.server.control.clients import MAX_NAMES
from vireo.server.control.snapshot import CLUSTER, ENDPOINTS, ROUTES


async def test_a_client_is_sent_all_clusters_what_it_names_and_each_change(server: Server) -> None:
    server.publish({"c-a": "1", "c-b": "1", "r": "1"})
    async with xds_client(server.port) as client:
        await client.ask(CLUSTER)
        assert [(await client.taken()).names for _ in range(2)] == [{"c-a"}, {"c-b"}]
        await client.ask(ENDPOINTS, "c-a")
        assert (await client.taken()).names == {"c-a"}
        server.publish({"c-a": "1", "r": "1"})
        removal = await client.taken()
        assert (removal.kind, removal.removed) == (CLUSTER, frozenset({"c-b"}))
        assert not removal.names
        assert await client.hears_nothing()


async def test_the_status_has_what_was_accepted_what_is_under_way_and_what_was_refused() -> None:
    async with running_control({}) as control, xds_client(control.port, node="n") as client:

        async def status(kind: str, name: str) -> tuple[str, str]:
            """The status of a resource by CSDS, and the words of a refusal."""
            each = (await control.status())["n"][kind, name]
            return csds_pb2.ConfigStatus.Name(each.config_status), each.error_state.details

        await client.ask(ROUTES, "candidate")
        await client.taken()
        await client.ask(CLUSTER)
        waiting = await client.receive()
        assert await status("RouteConfiguration", "candidate") == ("SYNCED", "")
        assert await status("Cluster", *waiting.names) == ("NOT_SENT", "")
        await client.refuse(waiting, "no such type")
        await client.receive()  # the next one
        assert await status("Cluster", *waiting.names) == ("ERROR", "no such type")


async def test_streams_beyond_the_limit_are_refused_and_others_continue(server: Server) -> None:
    server.publish({"c-a": "1"})
    async with AsyncExitStack() as stack:
        clients = []
        for number in range(MAX_STREAMS):
            client = await stack.enter_async_context(xds_client(server.port, node=f"n{number}"))
            clients.append(client)
            await client.ask(CLUSTER)
            await client.taken()
        refused = await stack.enter_async_context(xds_client(server.port))
        with pytest.raises(grpc.aio.AioRpcError, match="streams"):
            await refused.receive()
        server.publish({"c-a": "2"})
        assert (await clients[0].taken()).names == {"c-a"}
        clients[1].end()
        await until(lambda: server.servicer.streams.taken < MAX_STREAMS)
        another = await stack.enter_async_context(xds_client(server.port))
        await another.ask(CLUSTER)
        assert (await another.taken()).names == {"c-a"}
    await until(lambda: server.servicer.streams.taken == 0)


async def test_a_stream_that_says_nothing_is_ended(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ads, "_FIRST_REQUEST_SECONDS", 0.05)
    async with xds_client(server.port) as client:
        with pytest.raises(grpc.aio.AioRpcError, match="no request was received"):
            await client.receive()
    await until(lambda: server.servicer.streams.taken == 0)


@pytest.mark.parametrize("node", ["", "n" * 300, "a\nb", "\x1b[2J"])
async def test_a_node_id_that_is_missing_long_or_unprintable_is_refused(
    server: Server, node: str
) -> None:
    async with xds_client(server.port, node=node) as client:
        await client.ask(CLUSTER)
        with pytest.raises(grpc.aio.AioRpcError, match=r"node\.id"):
            await client.receive()
    assert not server.servicer.clients


async def test_a_stream_that_names_more_than_there_could_be_is_ended(server: Server) -> None:
    async with xds_client(server.port) as client:
        await client.ask(ROUTES, *(f"r-{each}" for each in range(MAX_NAMES + 1)))
        with pytest.raises(grpc.aio.AioRpcError, match="more than"):
            await client.receive()


@pytest.mark.parametrize(
    "nonsense",
    [
        {"type_url": "nonsense", "error_detail": Status(message="y")},
        {"type_url": CLUSTER, "response_nonce": "of before"},
        {"type_url": ROUTES, "resource_names_unsubscribe": ["never had"]},
    ],
    ids=lambda each: str(each["type_url"]).rpartition(".")[2],
)
async def test_a_request_that_makes_no_sense_ends_no_stream(
    server: Server, nonsense: dict[str, Any]
) -> None:
    server.publish({"c-a": "1"})
    async with xds_client(server.port) as client:
        await client.send(pb.DeltaDiscoveryRequest(**nonsense))
        await client.ask(CLUSTER)
        assert (await client.taken()).names == {"c-a"}


async def test_the_state_of_the_world_variant_is_not_served(server: Server) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel).StreamAggregatedResources()
        assert await call.code() == grpc.StatusCode.UNIMPLEMENTED
