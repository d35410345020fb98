"""This machine: the stack's processes and pods, certificates and disks."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import psutil

from vireo.ops.doctor.deployment import Deployment, Probe, call_fault, split
from vireo.ops.doctor.facts import POD_KINDS, Certificate, Disk, Facts, Machine, Pod, Process
from vireo.ops.stack.state import ProcessState
from vireo.server.errors import VireoError


def stack_probes(deployment: Deployment) -> Iterator[Probe]:
    """Yield the probes of a stack on this machine: one of all its processes, and one a pod."""
    if deployment.state is None:
        return
    processes = deployment.state.processes
    yield Probe("the stack's processes", partial(_ask_processes, processes, deployment.window))
    for process in processes:
        if process.name.split("-")[0] in POD_KINDS:
            yield Probe(process.name, partial(_ask_pod, deployment, process))


def _ask_processes(states: Sequence[ProcessState], window: float) -> Facts:
    running = dict[str, psutil.Process]()
    psutil.cpu_percent()  # begins the window
    for each in states:
        with suppress(psutil.Error):
            if each.pid is not None:
                running[each.name] = psutil.Process(each.pid)
                running[each.name].cpu_percent()  # likewise
    time.sleep(window)
    memory = psutil.virtual_memory()
    machine = Machine(psutil.cpu_percent() / 100, memory.available / memory.total)
    processes = tuple(_process(each, running.get(each.name)) for each in states)
    return Facts(processes=processes, machines=(machine,))


def _process(state: ProcessState, running: psutil.Process | None) -> Process:
    stopped, busy = False, None
    with suppress(psutil.Error):  # it ended meanwhile
        if running is not None:
            busy = running.cpu_percent() / 100
            stopped = running.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    ago = (datetime.now(UTC) - state.ended_at).total_seconds() if state.ended_at else None
    return Process(**dict(state), ended_ago=ago, stopped=stopped, busy=busy)


def _ask_pod(deployment: Deployment, process: ProcessState) -> Facts:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from vireo.server.control.mesh import GRPC_SERVICES
    from vireo.server.rpc.tls import open_blocking_channel
    from vireo.v1.release_pb2 import GetServingReleaseRequest, GetServingReleaseResponse, LoadStage
    from vireo.v1.release_pb2_grpc import ReleaseServiceStub

    role, target = process.name.split("-")[0], f"127.0.0.1:{process.port}"
    pod = Pod(process.name, process.pool)
    with open_blocking_channel(target, deployment.tls, role) as channel:
        health = cast("Any", health_pb2_grpc).HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=cast("Any", GRPC_SERVICES)[role])
        try:
            status = health.Check(request, timeout=deployment.answer).status
            answer: GetServingReleaseResponse = ReleaseServiceStub(channel).GetServingRelease(
                GetServingReleaseRequest(), timeout=deployment.answer
            )
        except grpc.RpcError as error:
            fault, problem = call_fault(error, target)
            return Facts(pods=(replace(pod, problem=problem, fault=fault),))
    serving = status == health_pb2.HealthCheckResponse.SERVING
    load = answer.loading if answer.HasField("loading") else None
    stage = LoadStage.Name(load.stage).removeprefix("LOAD_STAGE_").lower() if load else ""
    known = replace(
        pod,
        problem="" if serving else "its health check says that it doesn't serve",
        fault="" if serving else "failed",
        release=answer.release_id,
        channel=answer.channel,
        origin=answer.origin,
        failure=answer.last_failure,
        loading=f"{stage} {load.release_id}".strip() if load else "",
    )
    return Facts(pods=(known,))


def file_probes(deployment: Deployment) -> Iterator[Probe]:
    """Yield the probes of files, of folders, and of the certificate that the edge presents."""
    if deployment.certificates:
        files = deployment.certificates
        yield Probe("certificates", lambda: Facts(certificates=tuple(map(_certificate, files))))
    if deployment.edge is not None and deployment.edge.ca is not None:
        yield Probe("the edge's certificate", partial(_presented, deployment))
    for what, folder in deployment.folders.items():
        yield Probe(f"the disk of {what}", partial(_disk, what, folder))


def _certificate(file: Path) -> Certificate:
    name = str(file)
    try:
        return Certificate(name, min(_ends_in(file.read_bytes())))
    except (OSError, ValueError) as error:
        return Certificate(name, 0.0, f"it can't be read ({error})")


def _ends_in(pem: bytes) -> list[float]:
    """Return in how many seconds each certificate of a file ends; raise ValueError without one."""
    from cryptography import x509

    now = datetime.now(UTC)
    found = x509.load_pem_x509_certificates(pem)
    return [(each.not_valid_after_utc - now).total_seconds() for each in found]


def _presented(deployment: Deployment) -> Facts:
    assert deployment.edge is not None
    target = deployment.edge.target
    try:
        # Without the CA: what is presented is to be dated even if nobody should trust it any more.
        pem = ssl.get_server_certificate(split(target), timeout=deployment.answer)
    except OSError as error:  # an SSLError is one
        raise VireoError(f"{target} presents none ({error})") from error
    ends_in = min(_ends_in(pem.encode()))
    return Facts(certificates=(Certificate(f"that of the edge, {target}", ends_in),))


def _disk(what: str, folder: Path) -> Facts:
    there = next((each for each in (folder, *folder.parents) if each.exists()), None)
    with suppress(OSError):
        if there is not None:
            usage = psutil.disk_usage(str(there))
            return Facts(disks=(Disk(what, str(folder), usage.free, usage.total),))
    raise VireoError(f"{folder} can't be looked at")
