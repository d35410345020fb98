"""Processes that die, hang or can't be reached, and pods that answer wrongly or slowly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vireo.ops.doctor.causes.load import shed_calls
from vireo.ops.doctor.conditions import Finding, ago, found, listed, named
from vireo.ops.doctor.facts import POD_KINDS, SERVICES, Facts, Host, Process

JUST_NOW = 45.0
"""Seconds for which the end of a process counts as something that goes on: a process that keeps
dying is started again after up to 10 s, and then loads its release."""
_RECENT = 900.0
"""Seconds for which it is worth a note."""
_ORDERLY = "ended with exit code 0"
_IDLE_CORES = 0.005
"""Cores below which a process that owes an answer counts as stuck rather than busy."""
_ERROR_SHARE, _OTHERS_TIMES = 0.2, 4.0
"""Share of failed calls from which a pod is broken, and how many times that of the others."""
_MIN_CALLS = 5
_TIMEOUT_SHARE = 0.1
"""Share of calls without an answer in time from which a pod is slow."""
_SLOW_SECONDS, _OCCUPIED_SHARE = 0.08, 0.5
"""Mean seconds of a call from which a pod is slow, if it is occupied for this share of the time: a
pod that stood still for a moment isn't."""
_EJECTED = frozenset({"failed_outlier_check"})
"""Flags of a pod that passes health checks, and is ejected for the calls that it didn't answer."""


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


def last_seen(processes: Iterable[Process]) -> float:
    """Return how many seconds ago one of them was dying or stopped last; 0 if one is now."""
    many = list(processes)
    ages = [
        0.0 if each.state in ("restarting", "stopped") else each.ended_ago or 0.0
        for each in dying(many)
    ]
    return 0.0 if any(each.stopped for each in many) else min(ages, default=0.0)


def _obituary(process: Process) -> str:
    """Return a line of evidence: how a process ended, how often, and where its log is."""
    when = "" if process.ended_ago is None else f" {ago(process.ended_ago)} ago"
    how = process.ended or process.problem or f"is {process.state}"
    count = f", {process.restarts} restarts so far" if process.restarts else ""
    return f"{process.name} {how}{when}{count}; its log: {process.log}"


def _obituaries(processes: Iterable[Process]) -> Iterator[tuple[str, str]]:
    return ((each.name, _obituary(each)) for each in processes)


def state_of(processes: Iterable[Process]) -> list[str]:
    """Return evidence of processes that are stopped or dying."""
    many = list(processes)
    lines = [f"the kernel has {each.name} stopped (SIGSTOP)" for each in many if each.stopped]
    return lines + [_obituary(each) for each in dying(many)]


def pods_die(facts: Facts) -> Iterator[Finding]:
    """Pods that end by themselves, or are killed; pages that are gone, without a supervisor."""
    many = dying(facts.of_kind(*POD_KINDS))
    killed = any("SIGKILL" in each.ended for each in many)
    yield from named("pod-dies", _obituaries(many), "killed" if killed else "", last_seen(many))
    if not facts.processes:
        gone = (
            (page.source, f"{page.source}: {page.problem}")
            for page in facts.pages
            if page.fault in ("refused", "unreachable")
        )
        yield from named("pod-dies", gone, "gone")


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
        yield from named(cause, _obituaries(many), within=ago(_RECENT))


def pods_hang(facts: Facts) -> Iterator[Finding]:
    """Pods that accept connections and never answer."""
    hanging = {
        each.name: f"the kernel has {each.name} stopped (SIGSTOP, or a debugger)"
        for each in facts.of_kind(*POD_KINDS)
        if each.stopped
    }
    # A silent pod that works is only slow.
    working = {each.name for each in facts.processes if (each.busy or 0.0) >= _IDLE_CORES}
    for pod in facts.pods:
        if pod.fault == "silent" and pod.name not in working:
            hanging.setdefault(pod.name, f"{pod.name} accepts connections: {pod.problem}")
    if not facts.processes:
        for host in facts.hosts:
            if host.timed_out and not host.reach:
                who = f"{host.name} ({host.cluster})"
                seen = f"Envoy's health checks of {who} get no answer in time"
                hanging.setdefault(host.name, seen)
        for page in facts.pages:
            if page.fault == "silent":
                seen = f"{page.source} accepts connections: {page.problem}"
                hanging.setdefault(page.source, seen)
    yield from named("pod-hangs", hanging.items())


def pods_unreachable(facts: Facts) -> Iterator[Finding]:
    """Pods whose host answers no packet. What Envoy still calls, only this machine can't reach."""
    cut = (
        (
            each.name,
            f"{each.name} ({each.cluster}): no packet comes back, neither here nor to Envoy "
            f"({', '.join(sorted(each.flags))})",
        )
        for each in facts.hosts
        if each.reach == "unreachable" and not each.healthy
    )
    yield from named("pod-unreachable", cut)


def endpoints_refused(facts: Facts) -> Iterator[Finding]:
    """Pods that discovery finds and at whose port nothing listens, without a supervisor."""
    supervised = {each.name for each in facts.processes}
    gone = (
        (each.name, f"{each.name} ({each.cluster}): connection refused")
        for each in facts.hosts
        if each.reach == "refused" and not each.healthy and each.name not in supervised
    )
    yield from named("endpoint-dead", gone)


def edge_fails(facts: Facts) -> Iterator[Finding]:
    """An edge at which nothing listens, or that is there and doesn't answer a slate."""
    edge = facts.ill("edge")
    if edge is None:
        return
    many = list(facts.of_kind("envoy"))
    if edge.fault in ("refused", "unreachable") or state_of(many):
        evidence = [*state_of(many), edge.problem]
        yield found("edge-down", evidence, "supervised" if many else "", where=edge.where)
    if edge.fault in ("failed", "silent"):
        yield found("edge-fails", [f"a slate asked for at {edge.where}: {edge.problem}"])


def envoy_silent(facts: Facts) -> Iterator[Finding]:
    """An admin interface that doesn't answer, while the edge does."""
    envoy, edge = facts.ill("envoy"), facts.part("edge")
    if envoy is not None and edge is not None and not edge.fault:
        yield found("envoy-unseen", [f"{envoy.where}: {envoy.problem}"])


def stages_missing(facts: Facts) -> Iterator[Finding]:
    """A service that no pod serves; only the gateway's if one process has them all."""
    whole = any(each.kind == "slate" for each in facts.pods)
    for kind in ("gateway",) if whole else SERVICES:
        kinds = {kind, "slate"}
        pods = [each for each in facts.pods if each.kind in kinds and each.pool == "production"]
        hosts = [each for each in facts.hosts if each.cluster == kind]
        serving = [each for each in pods if not each.problem]
        called = [each for each in hosts if each.healthy and each.reach != "refused"]
        if (serving if pods else called) or not (pods or hosts):
            continue
        loading = [each for each in pods if each.loading or each.failure]
        evidence = [
            f"{each.name} has no release: {each.failure or each.loading}" for each in loading
        ]
        evidence += state_of(facts.of_kind(*kinds))
        evidence += [f"{each.name}: {each.problem}" for each in pods if each not in loading]
        if not pods:
            evidence += [f"Envoy calls none of {listed(each.name for each in hosts)}"]
        failed = any(each.failure for each in loading)
        yield found(f"no-{kind}", evidence, "unloadable" if failed else "")


def invalid_responses(facts: Facts) -> Iterator[Finding]:
    """Pods whose answers gateways reject, for example for NaN scores."""
    names = {each.address: each.name for each in facts.hosts}
    counts: dict[str, float] = {}
    for page, labels, _ in facts.samples("vireo_invalid_responses_total"):
        if count := page.increase("vireo_invalid_responses_total", **labels):
            address = labels.get("address", "")
            name = f"{labels.get('stage', '')} pod {names.get(address, address)}"
            counts[name] = counts.get(name, 0.0) + count
    lines = (
        (name, f"gateways rejected {count:.0f} answers of the {name} within {facts.seconds:.0f} s")
        for name, count in counts.items()
    )
    yield from named("invalid-responses", lines)


def pods_fail(facts: Facts) -> Iterator[Finding]:
    """Pods that fail many calls, or answer too late, while others of their cluster don't."""
    if shed_calls(facts):
        return  # with more calls than there can be answers, all fail by chance
    broken, slow = list[tuple[str, str]](), list[tuple[str, str]]()
    for host in facts.hosts:
        rest = [each for each in facts.hosts if each.cluster == host.cluster and each is not host]
        share, others = _share(host, "errors"), _least(rest, "errors")
        if share >= max(_ERROR_SHARE, _OTHERS_TIMES * others):
            seen = f"fails {share:.0%} of its calls as {host.cluster}, the others {others:.0%}"
            broken.append((host.name, f"{host.name} {seen}"))
        if not (host.timed_out or host.reach) and (seen := _slowness(host, rest)):
            slow.append((host.name, seen))
    yield from named("pod-errors", broken)
    yield from named("pod-slow", slow)


def _slowness(host: Host, rest: list[Host]) -> str:
    """Return why a pod counts as slow beside the rest of its cluster; empty if it doesn't."""
    share, others = _share(host, "timeouts"), _least(rest, "timeouts")
    if share >= max(_TIMEOUT_SHARE, _OTHERS_TIMES * others):
        return (
            f"{host.name} answers {share:.0%} of its calls as {host.cluster} too late, the others "
            f"{others:.0%}"
        )
    usual = min((each.latency for each in rest if each.calls), default=0.0)
    if (
        host.latency >= max(_SLOW_SECONDS, _OTHERS_TIMES * usual)
        and host.occupied >= _OCCUPIED_SHARE
        and any(each.calls >= _MIN_CALLS for each in rest)
    ):
        return (
            f"{host.name} takes {1000 * host.latency:.0f} ms for a call as {host.cluster}, others "
            f"{1000 * usual:.0f} ms"
        )
    if host.flags == _EJECTED and any(each.healthy for each in rest):
        return (
            f"Envoy has ejected {host.name} as {host.cluster}: calls had no answer in time, though "
            "it passes health checks"
        )
    return ""


def _share(host: Host, what: str) -> float:
    """Return the share of a host's calls that failed: within the window, or ever if it had few.

    Envoy may have ejected it, so that it had none.
    """
    if host.calls >= _MIN_CALLS:
        return float(getattr(host, what)) / host.calls
    if host.all_calls >= _MIN_CALLS and (host.flags or host.calls):
        return float(getattr(host, f"all_{what}")) / host.all_calls
    return 0.0


def _least(hosts: list[Host], what: str) -> float:
    """Return the smallest share of calls that one of them failed."""
    shares = [_share(each, what) for each in hosts if each.calls >= _MIN_CALLS]
    return min(shares, default=0.0)


def not_admitted(facts: Facts) -> Iterator[Finding]:
    """Pods that the control plane found and doesn't let take calls."""
    clusters = {
        labels["cluster"]: f"{count:.0f} of {labels['cluster']}: found, and not healthy yet"
        for _, labels, count in facts.samples("vireo_endpoints", state="unadmitted")
        if count
    }
    reasons = [
        f"{each.name}: {each.failure or each.loading or each.problem}"
        for each in facts.pods
        if each.pool == "production" and (each.problem or each.failure)
    ]
    if clusters:
        evidence = [*clusters.values(), *reasons]
        yield found("pod-refused", evidence, "explained" if reasons else "", names=listed(clusters))
