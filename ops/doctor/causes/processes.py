"""Processes that die, are restarted, hang, or can't be reached."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vireo.ops.doctor.facts import POD_KINDS, Facts, Process
from vireo.ops.doctor.finding import Finding, ago, found, listed

JUST_NOW = 45.0
"""Seconds for which the end of a process counts as something that goes on: a process that keeps
dying is started again after up to 10 s, and then loads its release."""
_RECENT = 900.0
"""Seconds for which it is worth a note."""
_ORDERLY = "ended with exit code 0"
_IDLE_CORES = 0.005
"""Cores below which a process that owes an answer counts as stuck rather than busy."""


def dying(processes: Iterable[Process]) -> list[Process]:
    """Return those that don't run, or ended a moment ago and were not asked to."""
    return [
        each
        for each in processes
        if each.state in ("restarting", "stopped")
        or (
            each.ended_ago is not None
            and each.ended_ago < JUST_NOW
            and not each.ended.startswith(_ORDERLY)
        )
    ]


def stopped(processes: Iterable[Process]) -> list[Process]:
    """Return those that the kernel has stopped."""
    return [each for each in processes if each.stopped]


def last_seen(processes: Iterable[Process]) -> float:
    """Return how many seconds ago one of them was dying or stopped last; 0 if one is now."""
    many = list(processes)
    ages = [
        0.0 if each.state in ("restarting", "stopped") else each.ended_ago or 0.0
        for each in dying(many)
    ]
    return 0.0 if stopped(many) else min(ages, default=0.0)


def obituary(process: Process) -> str:
    """Return a line of evidence: how a process ended, how often, and where its log is."""
    when = "" if process.ended_ago is None else f" {ago(process.ended_ago)} ago"
    how = process.ended or process.problem or f"is {process.state}"
    count = f", {process.restarts} restarts so far" if process.restarts else ""
    log = f"; its log: {process.log}" if process.log else ""
    return f"{process.name} {how}{when}{count}{log}"


def state_of(processes: Iterable[Process]) -> list[str]:
    """Return evidence of processes that are stopped or dying."""
    many = list(processes)
    lines = [f"the kernel has {each.name} stopped (SIGSTOP)" for each in stopped(many)]
    return lines + [obituary(each) for each in dying(many)]


def pods_die(facts: Facts) -> Iterator[Finding]:
    """Pods that end by themselves, or are killed."""
    if many := dying(facts.of_kind(*POD_KINDS)):
        yield found(
            "pod-dies",
            map(obituary, many),
            "killed" if any("SIGKILL" in each.ended for each in many) else "",
            last_seen(many),
            names=listed(each.name for each in many),
        )


def pods_gone(facts: Facts) -> Iterator[Finding]:
    """Pages of metrics at which nothing listens, where there is no supervisor to ask."""
    if facts.processes:
        return
    if gone := [page for page in facts.pages if page.fault in ("refused", "unreachable")]:
        evidence = (f"{page.source}: {page.problem}" for page in gone)
        yield found("pod-dies", evidence, "gone", names=listed(page.source for page in gone))


def restarted(facts: Facts) -> Iterator[Finding]:
    """Processes that were restarted: in order a moment ago, or by a fault some time ago."""
    recent = [
        each
        for each in facts.processes
        if each.ended_ago is not None
        and each.ended_ago <= _RECENT
        and each.state not in ("restarting", "stopped")
    ]
    orderly = [each for each in recent if each.ended.startswith(_ORDERLY)]
    died = [each for each in recent if each not in orderly and (each.ended_ago or 0.0) >= JUST_NOW]
    for cause, many in (("restarted", orderly), ("died-before", died)):
        if many:
            names = listed(each.name for each in many)
            yield found(cause, map(obituary, many), within=ago(_RECENT), names=names)


def pods_hang(facts: Facts) -> Iterator[Finding]:
    """Pods that accept connections and never answer."""
    hanging = {
        each.name: f"the kernel has {each.name} stopped (SIGSTOP, or a debugger)"
        for each in stopped(facts.of_kind(*POD_KINDS))
    }
    processes = {each.name: each for each in facts.processes}
    for pod in facts.pods:
        if pod.fault == "silent" and _stuck(processes.get(pod.name)):
            hanging.setdefault(pod.name, f"{pod.name} accepts connections: {pod.problem}")
    if not facts.processes:
        for host in facts.hosts:
            if host.timed_out and not host.reach:
                seen = (
                    f"Envoy's health checks of {host.name} ({host.cluster}) get no answer in time"
                )
                hanging.setdefault(host.name, seen)
        for page in facts.pages:
            if page.fault == "silent":
                seen = f"{page.source} accepts connections: {page.problem}"
                hanging.setdefault(page.source, seen)
    if hanging:
        yield found("pod-hangs", hanging.values(), names=listed(hanging))


def _stuck(process: Process | None) -> bool:
    """Return whether a silent pod does nothing: one that works is only slow."""
    return process is None or process.busy is None or process.busy < _IDLE_CORES


def pods_unreachable(facts: Facts) -> Iterator[Finding]:
    """Pods whose host answers no packet. What Envoy still calls, only this machine can't reach."""
    if cut := [each for each in facts.hosts if each.reach == "unreachable" and not each.healthy]:
        evidence = (
            f"{each.name} ({each.cluster}): no packet comes back, neither here nor to Envoy "
            f"({', '.join(sorted(each.flags))})"
            for each in cut
        )
        yield found("pod-unreachable", evidence, names=listed(each.name for each in cut))


def endpoints_refused(facts: Facts) -> Iterator[Finding]:
    """Pods that discovery finds and at whose port nothing listens, without a supervisor."""
    names = {each.name for each in facts.processes}
    if gone := [
        each
        for each in facts.hosts
        if each.reach == "refused" and not each.healthy and each.name not in names
    ]:
        evidence = (f"{each.name} ({each.cluster}): connection refused" for each in gone)
        yield found("endpoint-dead", evidence, names=listed(each.name for each in gone))


def no_stack(facts: Facts) -> Iterator[Finding]:
    """An edge at which nothing listens."""
    edge = facts.ill("edge")
    if edge is None:
        return
    many = list(facts.of_kind("envoy"))
    if edge.fault in ("refused", "unreachable") or state_of(many):
        evidence = [*state_of(many), edge.problem]
        yield found("edge-down", evidence, "supervised" if many else "", where=edge.where)


def edge_fails(facts: Facts) -> Iterator[Finding]:
    """An edge that is there and doesn't answer a slate."""
    edge = facts.ill("edge")
    if edge is not None and edge.fault in ("failed", "silent"):
        yield found("edge-fails", [f"a slate asked for at {edge.where}: {edge.problem}"])


def envoy_silent(facts: Facts) -> Iterator[Finding]:
    """An admin interface that doesn't answer, while the edge does."""
    envoy, edge = facts.ill("envoy"), facts.part("edge")
    if envoy is not None and edge is not None and not edge.fault:
        yield found("envoy-unseen", [f"{envoy.where}: {envoy.problem}"])


CAUSES = (
    pods_die,
    pods_gone,
    restarted,
    pods_hang,
    pods_unreachable,
    endpoints_refused,
    no_stack,
    edge_fails,
    envoy_silent,
)
