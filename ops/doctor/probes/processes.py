"""The stack's processes: what their supervisor and the kernel say."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial

import psutil

from vireo.ops.doctor.deployment import Deployment, Probe
from vireo.ops.doctor.facts import Facts, Machine, Process
from vireo.ops.stack.state import ProcessState


def probes(deployment: Deployment) -> Iterator[Probe]:
    """Yield the probe of a stack on this machine."""
    if deployment.state is not None:
        yield Probe("the stack's processes", partial(_ask, deployment))


def _ask(deployment: Deployment) -> Facts:
    assert deployment.state is not None
    states = deployment.state.processes
    psutil.cpu_percent()  # begins the window
    began = time.monotonic()
    before = [_cpu_seconds(each.pid) for each in states]
    time.sleep(deployment.window)
    seconds = time.monotonic() - began
    after = [_cpu_seconds(each.pid) for each in states]
    busy = [
        None if one is None or other is None else (other - one) / seconds
        for one, other in zip(before, after, strict=True)
    ]
    memory = psutil.virtual_memory()
    machine = Machine(psutil.cpu_percent() / 100, memory.available / memory.total)
    processes = tuple(_process(*each) for each in zip(states, busy, strict=True))
    return Facts(processes=processes, machines=(machine,))


def _process(state: ProcessState, busy: float | None) -> Process:
    now = datetime.now(UTC)
    return Process(
        state.name,
        state.state,
        state.problem,
        state.restarts,
        state.ended,
        (now - state.ended_at).total_seconds() if state.ended_at else None,
        _is_stopped(state.pid),
        busy,
        str(state.log),
    )


def _is_stopped(pid: int | None) -> bool:
    try:
        return pid is not None and psutil.Process(pid).status() in (
            psutil.STATUS_STOPPED,
            psutil.STATUS_TRACING_STOP,
        )
    except psutil.Error:
        return False  # it ended meanwhile


def _cpu_seconds(pid: int | None) -> float | None:
    try:
        times = None if pid is None else psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return None if times is None else float(times.user + times.system)
