"""Every TCP port that a stack opens, who may reach it, and what it asks of them.

A test compares this with what the processes of running stacks listen on and answer, and with the
table in docs/security.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from server.stack.settings import METRICS_PORT_OFFSET, POD_KINDS, PoolName, StackSettings

Credential: TypeAlias = Literal["nothing", "keys of S3", "a certificate", "a token"]
"""What a port asks for: a certificate is one of the stack's authority, or of the S3 server's
own, which no other process has."""

_POOLS: tuple[PoolName, ...] = ("production", "canary", "shadow")


@dataclass(frozen=True)
class Listener:
    """The ports of one kind."""

    purpose: str
    process: str
    """Name of the process, or what the names of its kind begin with."""
    ports: tuple[int, ...]
    asks: Credential
    asks_secured: Credential
    """The same in a stack that is secured."""
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


def _metrics(process: str, ports: tuple[int, ...]) -> Listener:
    moved = tuple(port + METRICS_PORT_OFFSET for port in ports)
    return Listener(f"metrics of {process}", process, moved, "nothing", "nothing")
