"""Pods, and other processes with a health check: what they say of themselves."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, cast

from vireo.ops.doctor.deployment import Deployment, Probe
from vireo.ops.doctor.facts import POD_KINDS, Facts, Fault, Pod
from vireo.ops.doctor.reach import reach, words
from vireo.ops.stack.state import ProcessState

_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)  # else it inherits another's backoff


def probes(deployment: Deployment) -> Iterator[Probe]:
    """Yield a probe for each pod of a stack on this machine."""
    for process in deployment.state.processes if deployment.state else ():
        if process.name.split("-")[0] in POD_KINDS:
            yield Probe(process.name, partial(_ask, deployment, process))


def _ask(deployment: Deployment, process: ProcessState) -> Facts:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from vireo.server.control.mesh import GRPC_SERVICES
    from vireo.server.rpc.tls import open_blocking_channel
    from vireo.v1.release_pb2 import GetServingReleaseRequest, GetServingReleaseResponse, LoadStage
    from vireo.v1.release_pb2_grpc import ReleaseServiceStub

    role, target = process.name.split("-")[0], f"127.0.0.1:{process.port}"
    pod = Pod(process.name, process.pool)
    with open_blocking_channel(target, deployment.tls, role, _OPTIONS) as channel:
        health = cast("Any", health_pb2_grpc).HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=cast("Any", GRPC_SERVICES)[role])
        try:
            status = health.Check(request, timeout=deployment.answer).status
            answer: GetServingReleaseResponse = ReleaseServiceStub(channel).GetServingRelease(
                GetServingReleaseRequest(), timeout=deployment.answer
            )
        except grpc.RpcError as error:
            fault, problem = _fault(cast("grpc.Call", error), target)
            return Facts(pods=(Pod(pod.name, pod.pool, problem, fault),))
    serving = status == health_pb2.HealthCheckResponse.SERVING
    load = answer.loading if answer.HasField("loading") else None
    stage = LoadStage.Name(load.stage).removeprefix("LOAD_STAGE_").lower() if load else ""
    return Facts(
        pods=(
            Pod(
                pod.name,
                pod.pool,
                "" if serving else "its health check says that it doesn't serve",
                "" if serving else "failed",
                answer.release_id,
                answer.channel,
                answer.origin,
                answer.last_failure,
                f"{stage} {load.release_id}".strip() if load else "",
            ),
        )
    )


def _fault(error: Any, target: str) -> tuple[Fault, str]:
    import grpc

    if fault := reach(target):
        return fault, words(fault)
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return "silent", words("silent")
    return "failed", f"{error.code().name}: {error.details()}"
