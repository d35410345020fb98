"""Too many calls, calls in too much of a hurry, callers who waste; and what the machine lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from vireo.ops.doctor.conditions import Finding, ago, found, named
from vireo.ops.doctor.facts import Certificate, Disk, Facts

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
_ENDS_SOON = 14 * 86_400.0
_FULL_BYTES = 16 << 20
"""Free bytes below which a disk counts as full: files are written in parts of about that size."""
_LOW_BYTES, _LOW_SHARE = 2 << 30, 0.1
"""A disk is nearly full if less than both is free."""
_CLOCK_OFF = 5.0
"""Seconds. Events may lie a minute in the future; S3 accepts 15 minutes."""
_LOW_MEMORY = 0.05
_OPEN_SHARE = 0.8
_LOG = "the log of events"


def overload(facts: Facts) -> Iterator[Finding]:
    """More calls than the pods can answer, so that they shed some."""
    shed = shed_calls(facts)
    if not _often(facts, shed) or shed < hurried_calls(facts):
        return
    calls = facts.increase("vireo_rpcs_total")
    evidence = [f"{shed:.0f} of {calls:.0f} calls were shed within {facts.seconds:.0f} s"]
    if standing := facts.sources("vireo_queue_standing"):
        evidence.append(f"a queue stands at {', '.join(standing[:3])}")
    evidence += [
        f"this machine's cores are {each.busy:.0%} busy"
        for each in facts.machines
        if each.busy >= _BUSY
    ]
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
    standing = facts.sources("vireo_queue_standing")
    if shed_calls(facts) > hurried or standing or _wasting(facts):
        return
    seen = (
        f"within {facts.seconds:.0f} s {hurried:.0f} of {total:.0f} calls ended at their "
        "caller's deadline or left no time for candidates, and no queue stands"
    )
    times = [each.seconds for each in facts.slates]
    took = [f"a slate took {1000 * min(times):.0f} ms just now"] if times else []
    yield found("short-deadlines", [seen, *took])


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
    counts = facts.increases("vireo_rpcs_total", "method", **labels)
    return sum(count for method, count in counts.items() if method.startswith(_CALLERS_METHODS))


def _shed_for(facts: Facts) -> list[str]:
    """Return why gateways shed calls, the most frequent reason first."""
    counts = Counter(facts.increases("vireo_rpcs_shed_total", "reason"))
    words = ", ".join(f"{count:.0f} by {reason}" for reason, count in counts.most_common() if count)
    return [f"shed: {words}"] if words else []


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


def _often(facts: Facts, count: float) -> bool:
    return count > 0 and count >= _MIN_RATE * max(facts.seconds, 1.0)


def disks_full(facts: Facts) -> Iterator[Finding]:
    """No room for events, or for anything else; or little room left."""
    low: dict[tuple[float, float], list[Disk]] = {}
    for disk in facts.disks:
        if _FULL_BYTES <= disk.free < min(_LOW_BYTES, _LOW_SHARE * disk.size):
            low.setdefault((disk.free, disk.size), []).append(disk)
        elif disk.free < _FULL_BYTES and disk.what != _LOG:
            yield found("disk-full", [_room(disk)], what=disk.what)
        elif disk.free < _FULL_BYTES:
            evidence = [_room(disk)]
            if part := facts.ill("log"):
                evidence.append(f"the log: {part.problem}")
            if refused := facts.increase("vireo_events_refused_total", reason="away"):
                evidence.append(f"gateways refused {refused:.0f} events just now")
            yield found("log-disk-full", evidence)
    for disks in low.values():
        yield found("disk-filling", map(_room, disks), what=disks[0].what)


def _room(disk: Disk) -> str:
    share = disk.free / disk.size if disk.size else 0.0
    return f"{disk.folder} ({disk.what}): {disk.free / 1e6:,.0f} MB free, {share:.0%} of the disk"


def certificates_end(facts: Facts) -> Iterator[Finding]:
    """Certificates that have ended or can't be read, so that connections fail; or soon will."""
    over = [each for each in facts.certificates if each.problem or each.ends_in <= 0]
    if over:
        variant = "unreadable" if over[0].problem else ""
        yield found("certificate-over", map(_validity, over), variant)
    soon = [each for each in facts.certificates if each not in over and each.ends_in <= _ENDS_SOON]
    if soon:
        soon.sort(key=lambda each: each.ends_in)
        yield found("certificate-ends", map(_validity, soon), time=ago(soon[0].ends_in))


def _validity(each: Certificate) -> str:
    if each.problem:
        return f"{each.file}: {each.problem}"
    if each.ends_in <= 0:
        return f"{each.file} ended {ago(-each.ends_in)} ago"
    return f"{each.file} ends in {ago(each.ends_in)}"


def clock_off(facts: Facts) -> Iterator[Finding]:
    """Clocks that differ: events are refused, tokens and certificates seem not to be valid."""
    off = [each for each in facts.clocks if abs(each.ahead) - each.uncertainty > _CLOCK_OFF]
    if off:
        worst = max(off, key=lambda each: abs(each.ahead))
        direction = "ahead of" if worst.ahead > 0 else "behind"
        evidence = (
            f"{each.source}: {each.ahead:+.0f} s (± {each.uncertainty:.0f} s)" for each in off
        )
        apart = f"{ago(abs(worst.ahead))} {direction}"
        yield found("clock-off", evidence, names=worst.source, apart=apart)


def memory_short(facts: Facts) -> Iterator[Finding]:
    """Memory that is nearly gone: the kernel kills next."""
    for each in facts.machines:
        if each.free_memory < _LOW_MEMORY:
            yield found("memory-short", [f"{each.free_memory:.1%} is available"])


def files_run_out(facts: Facts) -> Iterator[Finding]:
    """Processes that have nearly as many files open as they may."""
    opened = {
        page.source: (page.value("process_open_fds"), page.value("process_max_fds"))
        for page in facts.pages
    }
    lines = (
        (name, f"{name}: {count:.0f} of {most:.0f}")
        for name, (count, most) in opened.items()
        if most and count > _OPEN_SHARE * most
    )
    yield from named("files-run-out", lines)
