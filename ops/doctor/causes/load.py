"""Too many calls, calls in too much of a hurry, and callers who waste what they get."""

from __future__ import annotations

from collections.abc import Iterator

from vireo.ops.doctor.facts import Facts
from vireo.ops.doctor.finding import Finding, found

_BUSY = 0.9
_MIN_RATE = 0.5
"""Calls a second below which nothing is concluded from a window."""
_HURRY_SHARE = 0.2
_MANY_OPEN = 200
"""Requests open at the edge from which callers hold more than they use."""
_SLATES = "/vireo.v1.RecommendationService/Recommend"
_CALLERS_METHODS = (
    *(f"/vireo.v1.{name}Service/" for name in ("Recommendation", "Event", "Catalog")),
    "/inference.GRPCInferenceService/ModelInfer",  # Envoy asks for readiness
)
"""Begin of the methods that callers reach."""
_MAX_REFUSED_SHARE = 0.05
_MIN_REFUSED = 3
"""Refused calls within a window below which nothing is concluded from their share."""


def overload(facts: Facts) -> Iterator[Finding]:
    """More calls than the pods can answer, so that they shed some."""
    shed = shed_calls(facts)
    if not _often(facts, shed) or shed < hurried_calls(facts):
        return
    calls = facts.increase("vireo_rpcs_total")
    evidence = [f"{shed:.0f} of {calls:.0f} calls were shed within {facts.seconds:.0f} s"]
    if standing := _queue_stands(facts):
        evidence.append(f"a queue stands at {', '.join(standing[:3])}")
    evidence += _machine(facts)
    yield found("overload", evidence)


def short_deadlines(facts: Facts) -> Iterator[Finding]:
    """Callers who wait for less time than a slate takes."""
    hurried = hurried_calls(facts)
    calls = facts.increase("vireo_rpcs_total", method=_SLATES)
    edge = sum(each.deadlines for each in facts.edges)
    total = max(calls, sum(each.requests for each in facts.edges))
    # Callers who leave no time for candidates get the popular list.
    without_time = facts.increase(
        "vireo_stage_failures_total", service="gateway", stage="retrieval", reason="skipped"
    )
    hurried = min(max(hurried, edge) + without_time, total)
    if not _often(facts, hurried) or hurried < _HURRY_SHARE * total:
        return
    if shed_calls(facts) > hurried or _queue_stands(facts) or _wasting(facts):
        return
    seen = (
        f"within {facts.seconds:.0f} s {hurried:.0f} of {total:.0f} calls ended at their "
        "caller's deadline or left no time for candidates, and no queue stands"
    )
    yield found("short-deadlines", [seen, *_slate_time(facts)])


def hostile_callers(facts: Facts) -> Iterator[Finding]:
    """Callers who hold streams, stay silent, or abandon calls by the hundred."""
    if lines := _wasting(facts):
        yield found("hostile-callers", lines)


def _wasting(facts: Facts) -> list[str]:
    lines = []
    refused = sum(each.refused_streams for each in facts.edges)
    refused += facts.increase("vireo_rpcs_shed_total", reason="streams")
    if _often(facts, refused):
        lines.append(f"{refused:.0f} streams beyond a limit were refused just now")
    streams = facts.value("vireo_streams_open")
    waiting = sum(each.open_requests for each in facts.edges)
    working = facts.value("vireo_rpcs_in_flight")
    if waiting >= _MANY_OPEN and waiting > 2 * working + streams:
        lines.append(
            f"{waiting:.0f} requests are open at the edge, and {working:.0f} are worked on"
        )
    silent = sum(each.silent for each in facts.edges)
    if _often(facts, silent):
        lines.append(f"{silent:.0f} requests were ended since no message arrived")
    return lines


def rate_limited(facts: Facts) -> Iterator[Finding]:
    """Callers beyond the edge's limit."""
    refused = sum(each.refused_calls for each in facts.edges)
    if _often(facts, refused) and not shed_calls(facts):
        yield found("rate-limited", [f"{refused:.0f} calls within {facts.seconds:.0f} s"])


def calls_refused(facts: Facts) -> Iterator[Finding]:
    """More refused calls than may be, whatever the reason: other findings say it if they know."""
    by_edge = sum(each.refused_calls for each in facts.edges)
    by_gateways = _callers_calls(facts, code="RESOURCE_EXHAUSTED")
    refused, calls = by_edge + by_gateways, by_edge + _callers_calls(facts)
    if refused < _MIN_REFUSED or refused <= _MAX_REFUSED_SHARE * calls:
        return
    seen = (
        f"{refused:.0f} of {calls:.0f} calls within {facts.seconds:.0f} s got "
        f"RESOURCE_EXHAUSTED, {by_edge:.0f} of them at the edge"
    )
    variant = "by-gateways" if by_gateways > by_edge else ""
    yield found("calls-refused", [seen, *_shed_for(facts)], variant)


def _callers_calls(facts: Facts, **labels: str) -> float:
    """Return the calls of callers that gateways and models' pods answered within the window."""
    methods = {
        found["method"]
        for page in facts.pages
        for found, _ in page.samples("vireo_rpcs_total")
        if found.get("method", "").startswith(_CALLERS_METHODS)
    }
    return sum(facts.increase("vireo_rpcs_total", method=each, **labels) for each in methods)


def _shed_for(facts: Facts) -> list[str]:
    """Return why gateways shed calls, the most frequent reason first."""
    counts = {
        reason: facts.increase("vireo_rpcs_shed_total", reason=reason)
        for page in facts.pages
        for found, _ in page.samples("vireo_rpcs_shed_total")
        if (reason := found.get("reason", ""))
    }
    often = sorted(((count, reason) for reason, count in counts.items() if count), reverse=True)
    return [f"shed: {', '.join(f'{count:.0f} by {reason}' for count, reason in often)}"] * bool(
        often
    )


def shed_calls(facts: Facts) -> float:
    """Return the calls that pods shed within the window since they had too many."""
    reasons = ("queue", "limit", "priority")
    return sum(facts.increase("vireo_rpcs_shed_total", reason=reason) for reason in reasons)


def hurried_calls(facts: Facts) -> float:
    """Return the calls that ended since their caller's time was over."""
    return sum(
        facts.increase("vireo_rpcs_total", method=_SLATES, code=code)
        for code in ("DEADLINE_EXCEEDED", "CANCELLED")
    )


def _queue_stands(facts: Facts) -> list[str]:
    """Return where a queue stands."""
    return facts.sources("vireo_queue_standing")


def _often(facts: Facts, count: float) -> bool:
    return count > 0 and count >= _MIN_RATE * max(facts.seconds, 1.0)


def _slate_time(facts: Facts) -> list[str]:
    times = [each.seconds for each in facts.slates]
    return [f"a slate took {1000 * min(times):.0f} ms just now"] if times else []


def _machine(facts: Facts) -> list[str]:
    return [
        f"this machine's cores are {each.busy:.0%} busy"
        for each in facts.machines
        if each.busy >= _BUSY
    ]


CAUSES = (overload, short_deadlines, hostile_callers, rate_limited, calls_refused)
