"""The control plane: which resources each Envoy has refused."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from vireo.ops.cli.control import envoys_of
from vireo.ops.doctor.deployment import Deployment, Probe
from vireo.ops.doctor.facts import Facts, Part, Refusal
from vireo.ops.doctor.reach import reach, words
from vireo.server.errors import VireoError


def probes(deployment: Deployment) -> Iterator[Probe]:
    """Yield the probe of the control plane that is named."""
    if deployment.control:
        yield Probe("the control plane", partial(_ask, deployment))
    else:
        yield Probe.unnamed("the control plane", "name it with --control")


def _ask(deployment: Deployment) -> Facts:
    where = f"the control plane at {deployment.control}"
    try:
        envoys = envoys_of(deployment.control, deployment.tls, deployment.answer)
    except VireoError as error:
        fault = reach(deployment.control)
        problem = words(fault) if fault else str(error).partition(";")[0]
        return Facts(parts=(Part("control", where, fault or "failed", problem),))
    refusals = tuple(
        Refusal(envoy.node, each.kind, each.name, each.words)
        for envoy in envoys
        if envoy.connected
        for each in envoy.resources
        if each.state == "NACKED"
    )
    return Facts(parts=(Part("control", where),), refusals=refusals)
