"""A whole stack that is secured, as its callers, its operators and strangers see it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import urllib3
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.builders.commands import run_vireo
from tests.builders.http_page import page
from tests.builders.stack import Stack, running_stack
from tests.builders.tokens import Tokens
from vireo.server.home import Home
from vireo.server.rpc.tls import TlsFiles, open_blocking_channel
from vireo.server.security.folder import SecurityFolder
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

ONE_POD_EACH = {f"VIREO_{kind}_PODS": "1" for kind in ("CANDIDATE", "RANKING", "GATEWAY")}
SECONDS = 20.0
"""For a call: of a busy machine."""


@dataclass(frozen=True)
class SecuredStack:
    """A stack that `vireo up --secure` runs, its files, and tokens by its key."""

    stack: Stack
    folder: SecurityFolder
    tokens: Tokens

    def vireo(self, *arguments: str, **variables: str) -> str:
        """What a `vireo` command for this stack prints; fails where the command does."""
        return run_vireo({**self.stack.environment, **variables}, *arguments).stdout

    def channel(self) -> grpc.Channel:
        """A channel to the edge, as callers open it."""
        roots = self.folder.authority.read_bytes()
        return grpc.secure_channel(self.stack.edge, grpc.ssl_channel_credentials(roots))

    def recommend(self, token: str | None, channel: grpc.Channel | None = None) -> Any:
        """Return a slate of ten, by default over a channel of its own."""
        request = pb.RecommendRequest(viewer_id="1", page_size=10)
        if channel is not None:
            stub = RecommendationServiceStub(channel)
            return stub.Recommend(request, timeout=SECONDS, metadata=bearer(token))
        with self.channel() as fresh:
            return self.recommend(token, fresh)

    def code(self, token: str | None) -> grpc.StatusCode:
        """With what status such a call ends."""
        try:
            self.recommend(token)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    def rest(self, token: str | None) -> urllib3.BaseHTTPResponse:
        """The same by REST."""
        with urllib3.PoolManager(ca_certs=str(self.folder.authority)) as pool:
            return pool.request(
                "GET",
                f"https://{self.stack.edge}/v1/viewers/1/recommendations?page_size=10",
                headers=dict(bearer(token)),
            )

    def count(self, pattern: str) -> int:
        """The sum of Envoy's counters whose names match."""
        _, found = page(self.stack.state().admin_port, f"stats?filter={pattern}")
        return sum(int(line.rpartition(":")[2]) for line in found.splitlines())

    def health(self, port: int, tls: TlsFiles | None, role: str) -> grpc.StatusCode:
        """What a process of the stack answers to whoever has these files."""
        with open_blocking_channel(f"127.0.0.1:{port}", tls, role) as channel:
            return asked(channel)

    def port(self, name: str) -> int:
        """The port of one of its processes."""
        [port] = [each.port for each in self.stack.state().processes if each.name == name]
        return port

    def handshakes(self, port: int) -> int:
        """How many began at the port of a process, by its own metrics."""
        _, metrics = page(port + 1000)
        [count] = re.findall(r"^vireo_tls_handshakes_total (\S+)$", metrics, re.MULTILINE)
        return int(float(count))

    def inner_port(self) -> int:
        """Envoy's, before the candidate pods."""
        return int(self.stack.environment["VIREO_PORT_BASE"]) + 1


@contextmanager
def running_secured_stack(
    home: Home, *, prepare: str = "", settings: Mapping[str, str] | None = None
) -> Iterator[SecuredStack]:
    """A stack that serves from this home, secured.

    Args:
        home: its VIREO_HOME.
        prepare: shell commands to run before.
        settings: further `VIREO_…` variables.
    """
    folder = SecurityFolder(home.security)
    with running_stack(
        home.root,
        prepare=prepare,
        arguments=["--secure"],
        settings={**ONE_POD_EACH, **(settings or {})},
    ) as stack:
        yield SecuredStack(stack, folder, Tokens(folder))


def bearer(token: str | None) -> tuple[tuple[str, str], ...]:
    """Return a token as metadata or headers; empty without a token."""
    return (("authorization", f"Bearer {token}"),) if token is not None else ()


def asked(channel: grpc.Channel) -> grpc.StatusCode:
    """With what status a health check ends."""
    stub = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
    try:
        stub.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK
