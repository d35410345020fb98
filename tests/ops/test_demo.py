"""What `vireo demo` says if a port is taken, and if events can't be recorded."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.builders.rpc import rpc_settings, running_server
from vireo.ops.cli import demo
from vireo.ops.edge import Edge
from vireo.ops.stack.ports import PortTakenError, free_port_base
from vireo.server.errors import VireoError
from vireo.server.gateway.events import NAME
from vireo.server.rpc.errors import RpcError
from vireo.server.rpc.server import RpcServer
from vireo.v1.event_pb2_grpc import EventServiceServicer, add_EventServiceServicer_to_server


class Refusing(EventServiceServicer):
    """Refuses every call."""

    async def RecordEvents(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise RpcError(grpc.StatusCode.PERMISSION_DENIED, "not for you")


async def test_a_token_that_may_not_record_events_is_told_which_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = RpcServer(rpc_settings())
    server.add(NAME, partial(add_EventServiceServicer_to_server, Refusing()))  # type: ignore[abstract]
    async with running_server(server):
        monkeypatch.setattr(demo, "edge_of", lambda: Edge(f"127.0.0.1:{server.port}"))
        with pytest.raises(VireoError, match=r"not for you.* with the scope vireo\.events"):
            await asyncio.to_thread(demo._record, ["50"], "181", "request")


def test_a_port_that_is_taken_is_reported_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = free_port_base()
    for name, value in (("HOME", tmp_path), ("PORT_BASE", base), ("EDGE_PORT", base + 3)):
        monkeypatch.setenv(f"VIREO_{name}", str(value))
    with (
        socket.create_server(("127.0.0.1", base + 3)),
        pytest.raises(PortTakenError, match=f"port {base + 3} .*VIREO_EDGE_PORT"),
    ):
        demo.demo(once=True)
    assert not [*tmp_path.iterdir()]
