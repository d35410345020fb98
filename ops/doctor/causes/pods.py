"""Stages without pods, and pods that answer wrongly, slowly or with another release."""

from __future__ import annotations

from collections.abc import Iterator

from vireo.ops.doctor.causes.load import shed_calls
from vireo.ops.doctor.causes.processes import state_of
from vireo.ops.doctor.facts import POD_KINDS, Facts, Host, Pod
from vireo.ops.doctor.finding import Finding, listed, shown

_NOTICED = {
    "candidate": "every slate is the popular list",
    "ranking": "slates are in retrieval order",
    "gateway": "no call is answered",
}
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
        yield Finding(
            f"no-{kind}",
            "failing",
            f"No {kind} pod serves: {_NOTICED[kind]}",
            shown(evidence),
            "Make the release loadable, as its error says; rollback: vireo release rollback"
            if any(each.failure for each in loading)
            else f"Find out what ends all {kind} pods at once: their logs, memory, a bad rollout",
            {"candidate": "VireoNoCandidates", "ranking": "VireoNoRanking"}.get(
                kind, "VireoPoolEmpty"
            ),
        )


def invalid_responses(facts: Facts) -> Iterator[Finding]:
    """Pods whose answers gateways reject, for example for NaN scores."""
    found: dict[str, float] = {}
    for page in facts.pages:
        for labels, _ in page.samples("vireo_invalid_responses_total"):
            count = page.increase("vireo_invalid_responses_total", **labels)
            if count > 0:
                name = f"{labels.get('stage', '')} pod {_name(facts, labels.get('address', ''))}"
                found[name] = found.get(name, 0.0) + count
    if found:
        yield Finding(
            "invalid-responses",
            "failing",
            f"A pod answers with nonsense: {listed(found)}",
            shown(
                f"gateways rejected {count:.0f} answers of the {name} within {facts.seconds:.0f} s"
                for name, count in found.items()
            ),
            "Take it out of discovery or restart it; gateways ask another pod meanwhile. If every "
            "pod does it, the release is bad: vireo release rollback",
            "VireoInvalidResponses",
        )


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
        yield Finding(
            "pod-errors",
            "failing",
            f"{listed(broken)} fails calls that others answer",
            shown(broken.values()),
            "Read its log and restart it, or take it out of discovery; Envoy repeats its calls at "
            "another pod meanwhile",
            "VireoSlatesFail",
        )


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
        yield Finding(
            "pod-slow",
            "failing",
            f"{listed(slow)} is far slower than the others",
            shown(slow.values()),
            "Look at what else its machine does (top, a throttled container) and restart it "
            "elsewhere; Envoy gives it fewer calls meanwhile",
            "VireoSlatesSlow",
        )


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


def mixed_releases(facts: Facts) -> Iterator[Finding]:
    """Pods of production that serve other releases than the rest, for longer than a rollout."""
    by_release: dict[str, list[str]] = {}
    for pod in facts.pods:
        if pod.pool == "production" and pod.release:
            by_release.setdefault(pod.release, []).append(pod.name)
    if not facts.pods:
        for page in facts.pages:
            for labels, value in page.samples("vireo_release_info", role="serving"):
                if value and labels.get("channel") == "production":
                    by_release.setdefault(labels["release"], []).append(page.source)
    mixed = facts.increase("vireo_degradations_total", kind="mixed_releases")
    if len(by_release) < 2:
        return
    evidence = [f"{release}: {listed(names)}" for release, names in by_release.items()]
    if mixed:
        evidence.append(f"{mixed:.0f} slates mixed them within {facts.seconds:.0f} s")
    yield Finding(
        "mixed-releases",
        "failing" if mixed else "note",
        f"Pods serve {len(by_release)} releases at once",
        shown(evidence),
        "Normal for seconds after a promotion. If it lasts, the pods of the old release can't load "
        "the new one: vireo release status shows why",
        "VireoMixedReleases",
    )


def release_failing(facts: Facts) -> Iterator[Finding]:
    """Pods that can't follow their channel, though S3 answers."""
    found = {each.name: each.failure for each in facts.pods if each.failure}
    if not facts.pods:
        found = {
            page.source: "its latest attempt to follow the channel failed (vireo_release_failing)"
            for page in facts.pages
            if page.value("vireo_release_failing")
        }
    if found:
        yield Finding(
            "release-refused",
            "failing",
            f"{listed(found)} can't load what the channel names",
            shown(f"{name}: {why}" for name, why in found.items()),
            "They serve the release before. Publish a good one, or go back: vireo release rollback",
            "VireoReleaseRefused",
        )


def release_stale(facts: Facts) -> Iterator[Finding]:
    """A channel that names another release than every pod serves."""
    for channel in facts.channels:
        pods = [each for each in facts.pods if each.channel == channel.name and each.release]
        late = [each for each in pods if each.release != channel.release]
        if channel.release and late and len(late) == len(pods) and not _loading(late):
            yield Finding(
                "release-stale",
                "risk",
                f"Channel {channel.name} names {channel.release}, and no pod serves it",
                shown(f"{each.name} serves {each.release}" for each in late),
                "Pods hear of a promotion within seconds: look at the control plane, and at "
                "vireo release status",
                "VireoReleaseStale",
            )


def _loading(pods: list[Pod]) -> bool:
    return any(each.loading for each in pods)


def not_admitted(facts: Facts) -> Iterator[Finding]:
    """Pods that the control plane found and doesn't let take calls."""
    found = {}
    for page in facts.pages:
        for labels, count in page.samples("vireo_endpoints", state="unadmitted"):
            if count:
                cluster = labels.get("cluster", "")
                found[cluster] = f"{count:.0f} of {cluster}: found, and not healthy yet"
    if not found:
        return
    reasons = [
        f"{each.name}: {each.failure or each.loading or each.problem}"
        for each in facts.pods
        if each.pool == "production" and (each.problem or each.failure)
    ]
    yield Finding(
        "pod-refused",
        "risk" if reasons else "note",
        f"The control plane admits no calls to pods of {listed(found)}",
        shown([*found.values(), *reasons]),
        "A pod takes calls once its health check passes, which needs a release: its log, and "
        "vireo release status, say what it lacks",
        "VireoEndpointsMissing",
    )
