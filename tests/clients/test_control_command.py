"""`vireo control snapshot`, as programs read it."""

from __future__ import annotations

import asyncio

from clients.cli.control import envoys_of
from server.control.snapshot import CLUSTER, ENDPOINTS
from tests.builders.control import running_control
from tests.builders.xds import xds_client


async def test_each_client_is_shown_with_what_it_took_and_refused() -> None:
    async with (
        running_control({}) as control,
        xds_client(control.port, delta=True, node="one") as client,
    ):
        await client.ask(CLUSTER)
        await client.taken()
        await client.ask(ENDPOINTS, "gateway")
        await client.refuse(await client.receive(), "no such zone")
        [envoy] = await asyncio.to_thread(envoys_of, f"127.0.0.1:{control.port}")
    assert (envoy.node, envoy.connected) == ("one", True)
    assert envoy.versions.keys() == {"clusters", "endpoints"}
    states = {(each.kind, each.name): each.state for each in envoy.resources}
    assert states["clusters", "candidate-canary"] == "ACKED"
    assert states["endpoints", "gateway"] == "NACKED"
    [refused] = [each for each in envoy.resources if each.state == "NACKED"]
    assert refused.words == "no such zone"
