"""What callers, Envoy and sites reach: the edge, the control plane, and the log of events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from typing import cast
from urllib.parse import urlsplit

from vireo.ops.doctor.deployment import Deployment, Probe
from vireo.ops.doctor.facts import Facts, Fault, Part, Refusal, Slate
from vireo.ops.doctor.reach import UnansweredError, get, reach, words
from vireo.ops.envoys import envoys_of
from vireo.server.errors import VireoError
from vireo.server.event_log.settings import EventLogSettings

_VIEWER = "vireo-doctor"
_VIDEOS = 10


def edge_probes(deployment: Deployment) -> Iterator[Probe]:
    """Yield the probe of the edge that is named."""
    if deployment.edge:
        yield Probe("the edge", partial(_ask_edge, deployment))
    else:
        yield Probe.unnamed("the edge", "name it with --edge")


def _ask_edge(deployment: Deployment) -> Facts:
    import grpc

    from vireo.v1 import recommendation_pb2 as pb
    from vireo.v1 import viewer_pb2
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

    edge = deployment.edge
    assert edge is not None
    request = pb.RecommendRequest(viewer_id=_VIEWER, page_size=_VIDEOS)
    with edge.channel() as channel:
        began = time.monotonic()
        try:
            slate = RecommendationServiceStub(channel).Recommend(request, timeout=deployment.answer)
        except grpc.RpcError as error:
            call = cast("grpc.Call", error)
            if call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
                return Facts(parts=(Part("edge", edge.target),))  # it sheds, which counts tell
            fault, problem = _fault_edge(call, edge.target)
            return Facts(parts=(Part("edge", edge.target, fault, problem),))
        took = time.monotonic() - began
    kinds = [viewer_pb2.Degradation.Name(each) for each in slate.degradations]
    degradations = tuple(each.removeprefix("DEGRADATION_").lower() for each in kinds)
    return Facts(
        parts=(Part("edge", edge.target),), slates=(Slate(took, degradations, slate.release_id),)
    )


def _fault_edge(call: object, target: str) -> tuple[Fault, str]:
    import grpc

    error = cast("grpc.Call", call)
    if fault := reach(target):
        return fault, words(fault)
    silent = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    return ("silent" if silent else "failed"), f"{error.code().name}: {error.details()}"


def control_probes(deployment: Deployment) -> Iterator[Probe]:
    """Yield the probe of the control plane that is named."""
    if deployment.control:
        yield Probe("the control plane", partial(_ask_control, deployment))
    else:
        yield Probe.unnamed("the control plane", "name it with --control")


def _ask_control(deployment: Deployment) -> Facts:
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
        for each in envoy.resources
        if each.state == "NACKED"
    )
    return Facts(parts=(Part("control", where),), refusals=refusals)


def log_probes(deployment: Deployment) -> Iterator[Probe]:
    """Yield the probe of the log that the settings name."""
    if deployment.log is not None and deployment.log.named:
        yield Probe("the log of events", partial(_ask_log, deployment))
    else:
        yield Probe.unnamed("the log of events", "set VIREO_NATS_URL")


def _ask_log(deployment: Deployment) -> Facts:
    settings = deployment.log
    assert settings is not None
    where = f"the log at {_shown(settings)}"
    fault, problem = _fault_log(deployment, settings)
    return Facts(parts=(Part("log", where, fault, problem),))


def _shown(settings: EventLogSettings) -> str:
    """Return its addresses without credentials."""
    return ", ".join(_address(url) for url in settings.servers)


def _address(url: str) -> str:
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or 4222}"


def _fault_log(deployment: Deployment, settings: EventLogSettings) -> tuple[Fault, str]:
    faults = [reach(_address(url)) for url in settings.servers]
    if faults and all(faults):
        return faults[0], words(faults[0])
    if deployment.log_health:
        try:
            response = get(deployment.log_health, deployment.answer)
        except UnansweredError as error:
            return error.fault, str(error)
        if response.status != 200:
            return "failed", f"it stores nothing: {response.body.strip() or response.status}"
    try:
        asyncio.run(_end(settings, 2 * deployment.answer))
    except TimeoutError:
        return "silent", words("silent")
    except VireoError as error:
        return "failed", str(error)
    return "", ""


async def _end(settings: EventLogSettings, seconds: float) -> None:
    from vireo.server.event_log.jetstream import opened_log
    from vireo.server.event_log.log import CATALOG

    async with opened_log(settings, read_only=True) as log, asyncio.timeout(seconds):
        await log.end(CATALOG)
