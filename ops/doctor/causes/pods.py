"""Stages without pods, and pods that answer wrongly or slowly."""

from __future__ import annotations

from collections.abc import Iterator

from vireo.ops.doctor.causes.load import shed_calls
from vireo.ops.doctor.causes.processes import state_of
from vireo.ops.doctor.facts import POD_KINDS, Facts, Host
from vireo.ops.doctor.finding import Finding, found, listed

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


def stages_missing(facts: Facts) -> Iterator[Finding]:
    """A kind of pod of which none serves."""
    for kind in POD_KINDS:
        pods = [each for each in facts.pods if each.kind == kind and each.pool == "production"]
        hosts = [each for each in facts.hosts if each.cluster == kind]
        if not pods and not hosts:
            continue
        if any(not each.problem for each in pods) or any(
            each.healthy and each.reach != "refused" for each in hosts if not pods
        ):
            continue
        loading = [each for each in pods if each.loading or each.failure]
        evidence = [
            f"{each.name} has no release: {each.failure or each.loading}" for each in loading
        ]
        evidence += state_of(facts.of_kind(kind))
        evidence += [f"{each.name}: {each.problem}" for each in pods if each not in loading]
        if not pods:
            evidence += [f"Envoy calls none of {listed(each.name for each in hosts)}"]
        failed = any(each.failure for each in loading)
        yield found(f"no-{kind}", evidence, "unloadable" if failed else "")


def invalid_responses(facts: Facts) -> Iterator[Finding]:
    """Pods whose answers gateways reject, for example for NaN scores."""
    counts: dict[str, float] = {}
    for page in facts.pages:
        for labels, _ in page.samples("vireo_invalid_responses_total"):
            count = page.increase("vireo_invalid_responses_total", **labels)
            if count > 0:
                name = f"{labels.get('stage', '')} pod {_name(facts, labels.get('address', ''))}"
                counts[name] = counts.get(name, 0.0) + count
    if counts:
        evidence = (
            f"gateways rejected {count:.0f} answers of the {name} within {facts.seconds:.0f} s"
            for name, count in counts.items()
        )
        yield found("invalid-responses", evidence, names=listed(counts))


def _name(facts: Facts, address: str) -> str:
    """Return the name of the pod at an address."""
    return next((each.name for each in facts.hosts if each.address == address), address)


def pods_fail(facts: Facts) -> Iterator[Finding]:
    """Pods that fail many calls while others of their cluster don't."""
    if shed_calls(facts):
        return  # with more calls than there can be answers, all fail by chance
    broken = {}
    for host in facts.hosts:
        share, others = _share(host, "errors"), _others(facts, host, "errors")
        if share >= _ERROR_SHARE and share >= _OTHERS_TIMES * others:
            broken[host.name] = (
                f"{host.name} fails {share:.0%} of its calls as {host.cluster}, the others "
                f"{others:.0%}"
            )
    if broken:
        yield found("pod-errors", broken.values(), names=listed(broken))


def pods_slow(facts: Facts) -> Iterator[Finding]:
    """Pods that answer too late while others of their cluster don't."""
    if shed_calls(facts):
        return
    slow = {}
    for host in facts.hosts:
        if host.timed_out or host.reach:
            continue
        share, others = _share(host, "timeouts"), _others(facts, host, "timeouts")
        if share >= _TIMEOUT_SHARE and share >= _OTHERS_TIMES * others:
            slow[host.name] = (
                f"{host.name} answers {share:.0%} of its calls as {host.cluster} too late, the "
                f"others {others:.0%}"
            )
        elif _drags(facts, host):
            slow[host.name] = (
                f"{host.name} takes {1000 * host.latency:.0f} ms for a call as {host.cluster}, "
                f"others {1000 * _other_latency(facts, host):.0f} ms"
            )
        elif host.flags == _EJECTED and any(
            each.healthy for each in facts.hosts if each.cluster == host.cluster
        ):
            slow[host.name] = (
                f"Envoy has ejected {host.name} as {host.cluster}: calls had no answer in time, "
                "though it passes health checks"
            )
    if slow:
        yield found("pod-slow", slow.values(), names=listed(slow))


def _share(host: Host, what: str) -> float:
    """Return the share of a host's calls that failed: within the window, or ever if it had few.

    Envoy may have ejected it, so that it had none.
    """
    if host.calls >= _MIN_CALLS:
        return float(getattr(host, what)) / host.calls
    if host.all_calls >= _MIN_CALLS and (host.flags or host.calls):
        return float(getattr(host, f"all_{what}")) / host.all_calls
    return 0.0


def _drags(facts: Facts, host: Host) -> bool:
    """Return whether calls of a host last far longer than those of others, all the time."""
    return (
        host.latency >= _SLOW_SECONDS
        and host.occupied >= _OCCUPIED_SHARE
        and host.latency >= _OTHERS_TIMES * _other_latency(facts, host)
        and any(each.calls >= _MIN_CALLS for each in _rest(facts, host))
    )


def _other_latency(facts: Facts, host: Host) -> float:
    return min((each.latency for each in _rest(facts, host) if each.calls), default=0.0)


def _rest(facts: Facts, host: Host) -> list[Host]:
    """Return the other hosts of a host's cluster."""
    return [each for each in facts.hosts if each.cluster == host.cluster and each is not host]


def _others(facts: Facts, host: Host, what: str) -> float:
    """Return the smallest share of calls that another host of the cluster failed."""
    shares = [_share(each, what) for each in _rest(facts, host) if each.calls >= _MIN_CALLS]
    return min(shares, default=0.0)


def not_admitted(facts: Facts) -> Iterator[Finding]:
    """Pods that the control plane found and doesn't let take calls."""
    clusters = {}
    for page in facts.pages:
        for labels, count in page.samples("vireo_endpoints", state="unadmitted"):
            if count:
                cluster = labels.get("cluster", "")
                clusters[cluster] = f"{count:.0f} of {cluster}: found, and not healthy yet"
    if not clusters:
        return
    reasons = [
        f"{each.name}: {each.failure or each.loading or each.problem}"
        for each in facts.pods
        if each.pool == "production" and (each.problem or each.failure)
    ]
    evidence = [*clusters.values(), *reasons]
    yield found("pod-refused", evidence, "explained" if reasons else "", names=listed(clusters))


CAUSES = (stages_missing, invalid_responses, pods_fail, pods_slow, not_admitted)
