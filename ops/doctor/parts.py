"""All probes of a deployment, and the deployment that a stack on this machine is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from vireo.ops.doctor.deployment import Deployment, Probe
from vireo.ops.doctor.probes import envoy, machine, metrics, prometheus, services, stores
from vireo.ops.edge import edge_of, operator_tls
from vireo.ops.stack.nats import external_log, known_log
from vireo.ops.stack.s3 import access, external_endpoint
from vireo.ops.stack.settings import METRICS_PORT_OFFSET, StackSettings
from vireo.ops.stack.state import StackState
from vireo.server.home import Home
from vireo.server.releases.s3 import S3Settings

_PROBES: tuple[Callable[[Deployment], Iterator[Probe]], ...] = (
    machine.process_probes,
    machine.pod_probes,
    metrics.probes,
    prometheus.probes,
    envoy.probes,
    services.control_probes,
    services.edge_probes,
    services.log_probes,
    stores.store_probes,
    stores.s3_probes,
    machine.file_probes,
)
_WITH_METRICS = ("candidate", "ranking", "gateway", "consumer", "control")


def probes_of(deployment: Deployment) -> list[Probe]:
    """Return every probe that a deployment's parts allow, and one for each part that isn't known.

    The latter says which option would name it.
    """
    return [probe for part in _PROBES for probe in part(deployment)]


def stack_deployment(state: StackState, window: float) -> Deployment:
    """Return the stack that runs on this home, with all of its parts."""
    home, settings = Home.current(), StackSettings.load()
    ports = {each.name: each.port for each in state.processes}
    security = settings.security
    certificates = tuple(sorted(security.current.glob("*.crt"))) if state.secure else ()
    return Deployment(
        edge=edge_of(),
        state=state,
        control=f"127.0.0.1:{ports['control']}" if "control" in ports else "",
        tls=operator_tls(state),
        envoy=f"127.0.0.1:{state.admin_port}" if state.admin_port else "",
        metrics=metrics_pages(state),
        s3=access(settings) if external_endpoint() is None else S3Settings.load(),
        log=known_log(home),
        log_health=f"http://127.0.0.1:{ports['log'] + METRICS_PORT_OFFSET}/healthz"
        if "log" in ports
        else "",
        features=Path(os.environ.get("VIREO_FEATURES") or home.root / "features"),
        certificates=certificates,
        folders={
            **({"the log of events": home.root / "log" / "data"} if external_log() is None else {}),
            **({"releases in S3": home.s3} if external_endpoint() is None else {}),
            "the cache of releases": Path(os.environ.get("VIREO_CACHE") or home.cache),
            "features": home.root / "features",
            "processes' logs": home.logs,
        },
        channel=state.channel,
        window=window,
    )


def metrics_pages(state: StackState) -> dict[str, str]:
    """Return the URL of the metrics of each process of a stack that has some."""
    return {
        each.name: f"http://127.0.0.1:{each.port + METRICS_PORT_OFFSET}/metrics"
        for each in state.processes
        if each.name.split("-")[0] in _WITH_METRICS
    }


def external_s3() -> S3Settings | None:
    """Return the S3 that the settings name; None if they name none."""
    return S3Settings.load() if external_endpoint() else None
