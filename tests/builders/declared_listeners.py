"""Every TCP port that a stack opens, who may reach it, and the credential that it requires.

A test compares this with what the processes of running stacks listen on and respond, and with
the table in docs/security.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from vireo.ops.stack.settings import (
    METRICS_PORT_OFFSET,
    OIP_HTTP_PORT_OFFSET,
    POD_KINDS,
    PoolName,
    StackSettings,
)

Credential: TypeAlias = Literal[
    "nothing", "keys of S3", "the log's token", "a certificate", "a token"
]
"""The credential that a port requires: a certificate is one by the stack's authority, or the S3
server's own, which no other process has."""

_POOLS: tuple[PoolName, ...] = ("production", "canary", "shadow")


@dataclass(frozen=True)
class Listener:
    """Ports of one kind."""

    purpose: str
    process: str
    """Name of the process, or the prefix of the names of its kind."""
    ports: tuple[int, ...]
    asks: Credential
    asks_secured: Credential
    """The credential in a secured stack."""
    host: str = "127.0.0.1"


def listeners(settings: StackSettings, *, embedded_s3: bool = True) -> Iterator[Listener]:
    """Yield every listener of a stack with these settings."""
    yield Listener(
        "edge, for callers",
        "envoy",
        (settings.edge_port,),
        "nothing",
        "a token",
        settings.edge_host,
    )
    if settings.admin_port:
        yield Listener(
            "Envoy's admin interface, to read only",
            "envoy",
            (settings.admin_port,),
            "nothing",
            "nothing",
        )
    yield Listener(
        "inner listeners, before candidate and ranking pods",
        "envoy",
        (settings.candidate_port, settings.ranking_port),
        "nothing",
        "a certificate",
    )
    yield Listener("control plane", "control", (settings.control_port,), "nothing", "a certificate")
    for kind in POD_KINDS:
        pods = tuple(port for pool in _POOLS for port in settings.pod_ports(kind, pool))
        yield Listener(f"{kind} pods", kind, pods, "nothing", "a certificate")
        yield _metrics(kind, pods)
        if settings.oip_http and kind != "gateway":
            moved = tuple(port + OIP_HTTP_PORT_OFFSET for port in pods)
            yield Listener(f"{kind} pods, by HTTP", kind, moved, "nothing", "a certificate")
    yield _metrics("control", (settings.control_port,))
    if embedded_s3:
        [s3, *internal] = settings.s3_ports()
        yield Listener("S3", "s3", (s3,), "keys of S3", "keys of S3")
        yield Listener(
            "the S3 server's own parts, for each other",
            "s3",
            tuple(internal),
            "a certificate",
            "a certificate",
        )
    token: Credential = "the log's token"
    yield Listener("log of events", "log", (settings.log_port,), token, token)
    yield _metrics("log", (settings.log_port,))
    consumers = tuple(settings.consumer_ports(partitions=1))
    yield Listener("consumers of events", "consumer", consumers, "nothing", "a certificate")
    yield _metrics("consumer", consumers)


def _metrics(process: str, ports: tuple[int, ...]) -> Listener:
    moved = tuple(port + METRICS_PORT_OFFSET for port in ports)
    return Listener(f"metrics of {process}", process, moved, "nothing", "nothing")
