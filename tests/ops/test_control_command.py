"""`vireo control snapshot`, as programs read it."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.builders.control import running_control
from tests.builders.xds import refuse_endpoints, xds_client
from vireo.ops.envoys import envoys_of


async def test_each_client_is_shown_with_accepted_and_rejected_resources() -> None:
    async with (
        running_control({}) as control,
        xds_client(control.port, node="one") as client,
    ):
        await refuse_endpoints(client, "no such zone")

        async def refused_of() -> Any:
            [envoy] = await asyncio.to_thread(envoys_of, f"127.0.0.1:{control.port}")
            return envoy if any(each.state == "NACKED" for each in envoy.resources) else None

        async with asyncio.timeout(30):
            while (envoy := await refused_of()) is None:  # it has yet to be heard
                pass
    assert (envoy.node, envoy.connected) == ("one", True)
    assert envoy.versions.keys() == {"clusters", "endpoints"}
    states = {(each.kind, each.name): each.state for each in envoy.resources}
    assert states["clusters", "candidate-canary"] == "ACKED"
    assert states["endpoints", "gateway"] == "NACKED"
    [refused] = [each for each in envoy.resources if each.state == "NACKED"]
    assert refused.words == "no such zone"
