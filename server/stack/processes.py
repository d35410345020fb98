"""What each process of a stack is: its command, environment and health probe."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from server.releases.s3 import S3Settings
from server.stack.envoy import envoy_command
from server.stack.probes import Probe, grpc_probe, s3_probe
from server.stack.s3 import s3_command
from server.stack.settings import POD_KINDS, PodKind, StackSettings

SERVICES: dict[PodKind, str] = {
    "candidate": "vireo.v1.CandidateService",
    "ranking": "vireo.v1.RankingService",
    "gateway": "vireo.v1.RecommendationService",
}
"""The service by which each kind of pod reports its health."""


METRICS_PORT_OFFSET = 1000
"""A pod shows its metrics at its port + this."""


@dataclass(frozen=True)
class ProcessSpec:
    """One process to run."""

    name: str
    """For example "ranking-1"."""
    command: list[str]
    port: int
    """Where it answers."""
    probe: Probe
    environment: Mapping[str, str] = field(default_factory=dict)
    """What it gets besides this process's own environment."""


def s3_process(settings: StackSettings, server: S3Settings) -> ProcessSpec:
    """The embedded S3 server."""
    return ProcessSpec("s3", s3_command(settings), settings.s3_port, s3_probe(server))


def pod_processes(settings: StackSettings, server: S3Settings) -> list[ProcessSpec]:
    """Every candidate, ranking and gateway pod."""
    return [
        ProcessSpec(
            name=f"{kind}-{number}",
            command=[sys.executable, "-m", f"server.{kind}"],
            port=port,
            probe=grpc_probe(port, SERVICES[kind]),
            environment={
                **server.environment(),
                **_pod_environment(settings, port, f"{kind}-{number}"),
            },
        )
        for kind in POD_KINDS
        for number, port in enumerate(settings.pod_ports(kind), start=1)
    ]


def _pod_environment(settings: StackSettings, port: int, name: str) -> dict[str, str]:
    home = settings.home_folder
    return {
        "VIREO_HOME": str(home.root),
        "VIREO_HOST": "127.0.0.1",
        "VIREO_PORT": str(port),
        "VIREO_POD_NAME": name,
        "VIREO_METRICS_PORT": str(port + METRICS_PORT_OFFSET),
        "VIREO_CHANNEL": settings.channel,
        "VIREO_CACHE": os.environ.get("VIREO_CACHE") or str(home.cache),
        "VIREO_FEATURES": str(home.root / "features"),
        "VIREO_CANDIDATE_TARGET": f"127.0.0.1:{settings.candidate_port}",
        "VIREO_RANKING_TARGET": f"127.0.0.1:{settings.ranking_port}",
        # A pod has one core: threads of its libraries would only fight over it.
        "OMP_NUM_THREADS": "1",
    }


def envoy_process(settings: StackSettings, config: Path) -> ProcessSpec:
    """Envoy; healthy once callers get through its edge to a gateway that serves."""
    return ProcessSpec(
        name="envoy",
        command=envoy_command(config, settings),
        port=settings.edge_port,
        probe=grpc_probe(settings.edge_port, SERVICES["gateway"], settings.edge_reached_at),
    )
