"""The processes of a stack, each with its command, environment and health probe."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vireo.ops.stack.envoy import envoy_command
from vireo.ops.stack.nats import log_environment
from vireo.ops.stack.probes import ProcessSpec, grpc_probe
from vireo.ops.stack.settings import METRICS_PORT_OFFSET, OIP_HTTP_PORT_OFFSET, StackSettings
from vireo.server.control.discovery import EndpointsDocument
from vireo.server.control.mesh import GRPC_SERVICES, POOLS, SLATE, Pool
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.releases.s3 import S3Settings
from vireo.server.rpc.tls import TlsFiles

ADS = "envoy.service.discovery.v3.AggregatedDiscoveryService"
"""The service under which the control plane reports its health."""

POD_TUNABLES = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in (("arena_max", 1), ("mmap_threshold", 1 << 20), ("trim_threshold", 8 << 20))
)
"""How a pod's malloc keeps memory: an arena for each of gRPC's threads would take 30 MB more, and
a model's largest batch as much for ever; what a slate needs stays on the heap."""


def pod_processes(
    settings: StackSettings,
    server: S3Settings,
    log: EventLogSettings | None = None,
) -> list[ProcessSpec]:
    """Return every candidate, ranking and gateway pod of every pool.

    Args:
        settings: the stack's.
        server: S3.
        log: the log of events; None if pods serve without one.
    """
    return [
        _pod_process(settings, server, log, pool, number, port)
        for pool in (*POOLS, SLATE)
        for number, port in enumerate(settings.pod_ports(pool.service, pool.name), start=1)
    ]


def _pod_process(
    settings: StackSettings,
    server: S3Settings,
    log: EventLogSettings | None,
    pool: Pool,
    number: int,
    port: int,
) -> ProcessSpec:
    serves_oip = settings.oip_http and pool.service != "gateway"
    spec = _service_process(
        settings,
        f"{pool.cluster}-{number}",
        pool.service,
        port,
        GRPC_SERVICES[pool.service],
        _following(settings, server, log)
        | {
            "VIREO_CHANNEL": settings.channel if pool.name == "production" else pool.name,
            "VIREO_CACHE": os.environ.get("VIREO_CACHE") or str(settings.home_folder.cache),
            "VIREO_CANDIDATE_TARGET": f"127.0.0.1:{settings.candidate_port}",
            "VIREO_RANKING_TARGET": f"127.0.0.1:{settings.ranking_port}",
            # By HTTP too; 0 for no port.
            "VIREO_OIP_HTTP_PORT": str(port + OIP_HTTP_PORT_OFFSET if serves_oip else 0),
            "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", POD_TUNABLES),
        },
    )
    # The channel `canary` may name no release yet; the stack doesn't wait for it.
    return replace(spec, pool=pool.name, awaited=pool.name == "production")


def consumer_processes(
    settings: StackSettings, server: S3Settings, log: EventLogSettings
) -> list[ProcessSpec]:
    """Return the consumer of each partition of the log."""
    return [
        _service_process(
            settings,
            f"consumer-{partition + 1}",
            "consumer",
            port,
            "",
            _following(settings, server, log)
            | {"VIREO_CHANNEL": settings.channel, "VIREO_EVENT_PARTITION": str(partition)},
        )
        for partition, port in enumerate(settings.consumer_ports(log.event_partitions))
    ]


def control_process(settings: StackSettings, server: S3Settings, endpoints: Path) -> ProcessSpec:
    """Return the control plane; it reads the pods' addresses from the file `endpoints`."""
    return _service_process(
        settings,
        "control",
        "control",
        settings.control_port,
        ADS,
        {
            **server.environment(),
            "VIREO_MAX_CONNECTION_AGE": "0",  # the setting is for pods
            "VIREO_ENDPOINTS_FILE": str(endpoints),
            "VIREO_EDGE_HOST": settings.edge_host,
            "VIREO_EDGE_PORT": str(settings.edge_port),
            "VIREO_CANDIDATE_PORT": str(settings.candidate_port),
            "VIREO_RANKING_PORT": str(settings.ranking_port),
            "VIREO_OIP_HTTP_OFFSET": str(OIP_HTTP_PORT_OFFSET if settings.oip_http else 0),
            "VIREO_CORS_ORIGINS": settings.cors_origins,
            **_edge_access(settings),
        },
    )


def _service_process(
    settings: StackSettings,
    name: str,
    role: str,
    port: int,
    service: str,
    environment: Mapping[str, str],
) -> ProcessSpec:
    """Return a process of ours that serves gRPC.

    Args:
        settings: the stack's.
        name: its name.
        role: its package, and the role that its certificate names.
        port: its port.
        service: the gRPC service whose health it reports.
        environment: its variables but for ports and certificates.
    """
    own = {
        "VIREO_HOST": "127.0.0.1",
        "VIREO_PORT": str(port),
        "VIREO_POD_NAME": name,
        "VIREO_METRICS_PORT": str(port + METRICS_PORT_OFFSET),
    }
    if settings.secure:
        files = settings.security.tls(role)
        own["VIREO_TLS_CERTIFICATE"] = str(files.certificate)
        own["VIREO_TLS_KEY"] = str(files.key)
        own["VIREO_TLS_CA"] = str(files.authority)
    return ProcessSpec(
        name=name,
        command=[sys.executable, "-m", f"vireo.server.{role}"],
        port=port,
        probe=grpc_probe(port, service, tls=operator_tls(settings), role=role),
        environment={**own, **environment},
    )


def _following(
    settings: StackSettings, server: S3Settings, log: EventLogSettings | None
) -> dict[str, str]:
    """Return the variables of what follows a channel, and reads features and the log."""
    home = settings.home_folder.root
    return {
        **server.environment(),
        **(log_environment(log) if log else {}),
        "VIREO_HOME": str(home),
        "VIREO_CONTROL_TARGET": f"127.0.0.1:{settings.control_port}",
        "VIREO_FEATURES": str(home / "features"),
        # It has one core: its libraries' threads would only compete for it.
        "OMP_NUM_THREADS": "1",
    }


def operator_tls(settings: StackSettings) -> TlsFiles | None:
    """Return the TLS files with which the operator calls pods, the control plane and the edge."""
    return settings.security.tls("operator") if settings.secure else None


def _edge_access(settings: StackSettings) -> dict[str, str]:
    """Return the control plane's settings of what the edge requires of callers."""
    if not settings.secure:
        return {"VIREO_JWKS": "", "VIREO_RATE_LIMIT": "0"}  # for secured stacks only
    return {
        "VIREO_ENVOY_SECRETS": str(settings.security.secrets),
        "VIREO_JWKS": settings.jwks or str(settings.security.jwks),
        "VIREO_JWT_ISSUER": settings.jwt_issuer,
        "VIREO_JWT_AUDIENCE": settings.jwt_audience,
        "VIREO_VIEWER_CLAIM": settings.viewer_claim,
        "VIREO_RATE_LIMIT": str(settings.rate_limit),
    }


def endpoints_document(settings: StackSettings) -> EndpointsDocument:
    """Return the addresses of all pods, for the control plane."""
    document: dict[str, dict[str, list[str]]] = {}
    for pool in (*POOLS, SLATE):
        ports = settings.pod_ports(pool.service, pool.name)
        document.setdefault(pool.service, {})[pool.name] = [f"127.0.0.1:{port}" for port in ports]
    return EndpointsDocument.model_validate(document)


def envoy_process(settings: StackSettings, bootstrap: Path) -> ProcessSpec:
    """Return Envoy; it is healthy once calls through its edge reach a gateway that serves."""
    return ProcessSpec(
        name="envoy",
        command=envoy_command(bootstrap, settings),
        port=settings.edge_port,
        probe=grpc_probe(
            settings.edge_port,
            GRPC_SERVICES["gateway"],
            settings.edge_reached_at,
            operator_tls(settings),
            "edge",
        ),
    )
