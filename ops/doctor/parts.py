"""All probes of a deployment, and the deployment that a stack on this machine is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from vireo.ops.doctor.deployment import Deployment, Probe
from vireo.ops.doctor.facts import POD_KINDS, Facts
from vireo.ops.doctor.probes import envoy, machine, metrics, services
from vireo.ops.edge import edge_of, operator_tls
from vireo.ops.stack.nats import external_log, known_log
from vireo.ops.stack.s3 import access, external_s3
from vireo.ops.stack.settings import METRICS_PORT_OFFSET, StackSettings
from vireo.ops.stack.state import StackState, running_stack
from vireo.server.errors import NoAnswerError
from vireo.server.home import Home

_PARTS: tuple[tuple[str, str, Callable[[Deployment], Facts], str], ...] = (
    ("Envoy", "envoy", envoy.ask_envoy, "name its admin interface with --envoy"),
    ("the control plane", "control", services.ask_control, "name it with --control"),
    ("the edge", "edge", services.ask_edge, "name it with --target"),
    ("the log of events", "log", services.ask_log, "set VIREO_NATS_URL"),
    (
        "the online store",
        "features",
        services.ask_store,
        "set VIREO_FEATURES to the folder of the feature repositories",
    ),
    ("S3", "s3", services.ask_s3, "set VIREO_S3_ENDPOINT and its keys"),
)
"""Parts of which there is one: name, field of Deployment, probe, and how to name it."""
_WITH_METRICS = (*POD_KINDS, "consumer", "control")


def probes_of(deployment: Deployment) -> Iterator[Probe]:
    """Yield every probe that a deployment's parts allow, and one for each part that isn't known.

    The latter says which option would name it.
    """
    yield from machine.stack_probes(deployment)
    yield from metrics.probes(deployment)
    for name, field, ask, advice in _PARTS:
        if getattr(deployment, field):
            yield Probe(name, partial(ask, deployment))
        else:
            yield Probe.unnamed(name, advice)
    yield from machine.file_probes(deployment)


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
        metrics={
            name: f"http://127.0.0.1:{port + METRICS_PORT_OFFSET}/metrics"
            for name, port in ports.items()
            if name.split("-")[0] in _WITH_METRICS
        },
        s3=external_s3() or access(settings),
        log=known_log(home),
        log_health=f"http://127.0.0.1:{ports['log'] + METRICS_PORT_OFFSET}/healthz"
        if "log" in ports
        else "",
        features=Path(os.environ.get("VIREO_FEATURES") or home.root / "features"),
        certificates=certificates,
        folders={
            **({"the log of events": home.root / "log" / "data"} if external_log() is None else {}),
            **({"releases in S3": home.s3} if external_s3() is None else {}),
            "the cache of releases": Path(os.environ.get("VIREO_CACHE") or home.cache),
            "features": home.root / "features",
            "processes' logs": home.logs,
        },
        channel=state.channel,
        window=window,
    )


def completed(named: Deployment) -> Deployment:
    """Return a deployment, with what the settings name; the stack of this home if no part is named.

    Raises:
        NoAnswerError: none is named, and no stack runs.
    """
    if not any((named.edge, named.control, named.envoy, named.metrics, named.prometheus)):
        home = Home.current()
        if (state := running_stack(home)) is None:
            raise NoAnswerError(
                f"no stack runs on {home.root}: start it with vireo up, set VIREO_HOME to the home "
                "of the one you mean, or name a deployment with --target, --control and --metrics, "
                "or --prometheus"
            )
        return stack_deployment(state, named.window)
    features = os.environ.get("VIREO_FEATURES")
    return replace(
        named,
        s3=external_s3(),
        log=external_log(),
        features=Path(features) if features else None,
    )
