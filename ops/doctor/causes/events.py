"""The log of events, its consumers, and how far the features lag behind."""

from __future__ import annotations

from collections.abc import Iterator

from vireo.ops.doctor.causes.processes import dying, last_seen, state_of
from vireo.ops.doctor.facts import Facts
from vireo.ops.doctor.finding import Finding, ago, found, listed

_LATE_SECONDS = 15.0
"""Lag from which gateways declare that features may lack events."""
_MANY_MESSAGES = 100
_OLD_TAKEDOWNS = 60.0
"""Age in seconds that they don't reach while the log can be read."""
_FILLED = 0.8


def log_down(facts: Facts) -> Iterator[Finding]:
    """A log that stores nothing."""
    part, evidence = facts.ill("log"), state_of(facts.of_kind("log"))
    since = last_seen(facts.of_kind("log")) if facts.part("log") and part is None else 0.0
    refused = facts.increase("vireo_events_refused_total", reason="away")
    if part is not None:
        evidence.append(f"{part.where}: {part.problem}")
    away = [
        page.source
        for page in facts.pages
        if page.has("vireo_log_connected") and not page.value("vireo_log_connected")
    ]
    if away:
        evidence.append(f"{listed(away)} can't reach it")
    old = max((page.value("vireo_live_takedowns_age_seconds") for page in facts.pages), default=0)
    if old > _OLD_TAKEDOWNS:
        evidence.append(f"videos that were removed in the last {ago(old)} may be shown")
    if refused:
        evidence.append(
            f"gateways refused {refused:.0f} events within {facts.seconds:.0f} s since it is away"
        )
    if evidence:
        yield found("log-down", evidence, "over" if since else "", since)


def consumer_down(facts: Facts) -> Iterator[Finding]:
    """A partition that nobody applies."""
    if _is_back(facts) and _late(facts):
        return  # it works on what it missed, which is what lasts
    evidence = state_of(facts.of_kind("consumer"))
    evidence += [
        f"{page.source}: {page.problem}"
        for page in facts.pages
        if page.source.startswith("consumer") and page.fault == "silent"
    ]
    if evidence:
        since = last_seen(facts.of_kind("consumer"))
        yield found("consumer-down", [*evidence, *_lag(facts)], since=since)


def consumer_waits(facts: Facts) -> Iterator[Finding]:
    """A consumer that another keeps from its partition."""
    waiting = [
        page.source
        for page in facts.pages
        if page.has("vireo_consumer_lease_held") and not page.value("vireo_consumer_lease_held")
    ]
    away = facts.ill("store") is not None or facts.ill("log") is not None
    if not waiting or away or state_of(facts.of_kind("consumer", "log")):
        return
    seen = (f"{each} stands by (vireo_consumer_lease_held)" for each in waiting)
    yield found("consumer-waits", seen, names=listed(waiting))


def consumer_behind(facts: Facts) -> Iterator[Finding]:
    """A consumer that works and is far behind."""
    if _late(facts):
        applied = facts.increase("vireo_consumer_events_total")
        applies = f"{applied:.0f} events applied within {facts.seconds:.0f} s"
        evidence = [*_lag(facts), applies, *state_of(facts.of_kind("consumer"))]
        yield found("consumer-behind", evidence)


def _is_back(facts: Facts) -> bool:
    """Return whether consumers died, and all of them work again."""
    consumers = list(facts.of_kind("consumer"))
    return bool(dying(consumers)) and all(
        each.state == "healthy" and not each.stopped for each in consumers
    )


def _late(facts: Facts) -> bool:
    return any(
        page.value("vireo_consumer_lag_messages") >= _MANY_MESSAGES
        or page.value("vireo_consumer_lag_seconds") >= _LATE_SECONDS
        for page in facts.pages
    )


def _lag(facts: Facts) -> list[str]:
    return [
        f"{page.source} is {page.value('vireo_consumer_lag_messages'):.0f} messages and "
        f"{ago(page.value('vireo_consumer_lag_seconds'))} behind"
        for page in facts.pages
        if page.value("vireo_consumer_lag_messages")
    ]


def features_behind(facts: Facts) -> Iterator[Finding]:
    """Features that lack events, by the gateways' own account."""
    partitions = max((page.value("vireo_features_behind") for page in facts.pages), default=0.0)
    declared = facts.increase("vireo_degradations_total", kind="features_behind")
    asked = [each for each in facts.slates if "features_behind" in each.degradations]
    if partitions or declared or asked:
        evidence = []
        if partitions:
            evidence.append(f"the events of {partitions:.0f} partitions reach the features late")
        if declared or asked:
            evidence.append(f"slates declare features_behind ({declared:.0f} just now)")
        yield found("features-behind", [*evidence, *_lag(facts)])


def log_filling(facts: Facts) -> Iterator[Finding]:
    """A log with little room left, or callers that have taken their share of it."""
    used: dict[str, float] = {}
    for page in facts.pages:
        for labels, share in page.samples("vireo_log_used_ratio"):
            stream = labels.get("stream", "events")
            used[stream] = max(share, used.get(stream, 0.0))
    refused = facts.increase("vireo_events_refused_total", reason="full")
    full = [f"stream {stream} is {share:.0%} full" for stream, share in used.items()]
    if max(used.values(), default=0.0) > _FILLED or refused:
        evidence = [*full, f"{refused:.0f} events were refused just now"]
        yield found("log-filling", evidence, "refusing" if refused else "")


def events_of_other_times(facts: Facts) -> Iterator[Finding]:
    """Events that are refused for their time: their caller's clock is off."""
    future = facts.increase("vireo_events_refused_total", reason="future")
    past = facts.increase("vireo_events_refused_total", reason="past")
    if future or past:
        seen = f"{future:.0f} lie in the future and {past:.0f} too far in the past"
        yield found("callers-clock-off", [seen])


CAUSES = (
    log_down,
    consumer_down,
    consumer_waits,
    consumer_behind,
    features_behind,
    log_filling,
    events_of_other_times,
)
