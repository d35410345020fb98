"""The log of events, its consumers, and how far the features lag behind."""

from __future__ import annotations

from collections.abc import Iterator

from vireo.ops.doctor.causes.processes import dying, last_seen, state_of
from vireo.ops.doctor.facts import Facts
from vireo.ops.doctor.finding import Finding, ago, listed, shown

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
        yield Finding(
            "log-down",
            "failing",
            "The log of events died a moment ago" if since else "The log of events is away",
            shown(evidence),
            "Slates go on and declare FEATURES_BEHIND; callers keep events and repeat them. Start "
            "it, or read the end of its log; sites lose nothing if they repeat what was refused",
            "VireoLogDown",
            since,
        )


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
        yield Finding(
            "consumer-down",
            "failing",
            "A consumer of events dies: what viewers do reaches slates late, or not at all",
            shown([*evidence, *_lag(facts)]),
            "Events stay in the log and are applied once it is back. Read the end of its log: it "
            "dies of what it reads, or its memory is too small",
            "VireoConsumerDown",
            last_seen(facts.of_kind("consumer")),
        )


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
    yield Finding(
        "consumer-waits",
        "risk",
        f"Another consumer has the partition of {listed(waiting)}",
        shown(f"{each} doesn't hold its lease (vireo_consumer_lease_held)" for each in waiting),
        "One consumer applies a partition and others wait, so nothing is lost. If only one was "
        "meant, find the other: each needs its own VIREO_EVENT_PARTITION. After a crash the lease "
        "ends by itself within 15 s",
        "VireoConsumerDown",
    )


def consumer_behind(facts: Facts) -> Iterator[Finding]:
    """A consumer that works and is far behind."""
    if _late(facts):
        applied = facts.increase("vireo_consumer_events_total")
        yield Finding(
            "consumer-behind",
            "failing",
            "The consumer of events is behind: slates lack what viewers did lately",
            shown(
                [
                    *_lag(facts),
                    f"{applied:.0f} events applied within {facts.seconds:.0f} s",
                    *state_of(facts.of_kind("consumer")),
                ]
            ),
            "It catches up by itself if that number is large. If it lasts: a faster online store, "
            "or a new log with more partitions (docs/event-log.md)",
            "VireoConsumerBehind",
        )


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
        yield Finding(
            "features-behind",
            "failing",
            "Features are stale: events of the last seconds or minutes aren't in them",
            shown([*evidence, *_lag(facts)]),
            "Look at the consumers of events, then at the log",
            "VireoConsumerBehind",
        )


def events_set_aside(facts: Facts) -> Iterator[Finding]:
    """Events that couldn't be applied."""
    if dead := facts.increase("vireo_consumer_dead_events_total"):
        yield Finding(
            "events-set-aside",
            "risk",
            "Events can't be applied and are set aside",
            (f"{dead:.0f} messages within {facts.seconds:.0f} s",),
            "vireo events dead lists the reasons; once they are mended: vireo events replay --dead",
            "VireoEventsSetAside",
        )


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
        yield Finding(
            "log-filling",
            "risk",
            "The log of events is filling up"
            if not refused
            else "A caller is refused events: it has taken its share of the log",
            shown([*full, f"{refused:.0f} events were refused just now"]),
            "See whose events these are (vireo events tail). If they are yours, raise "
            "VIREO_EVENT_MAX_BYTES and restart the consumers, which apply it. Stream dead has a "
            "limit of its own: see why events are there (vireo events dead), and replay them",
            "VireoLogFilling",
        )


def events_missed(facts: Facts) -> Iterator[Finding]:
    """Events that the log kept no longer when they were to be applied."""
    missed = [
        f"{page.source}: {page.value('vireo_log_missed_messages_total'):.0f} messages"
        for page in facts.pages
        if page.value("vireo_log_missed_messages_total")
    ]
    if missed:
        yield Finding(
            "events-missed",
            "risk",
            "A consumer came later than the log keeps events: what viewers did then has no effect",
            shown(missed),
            "Make a data set (vireo data from-events) and build its features; restart the "
            "consumer. Keep events for longer than consumers may stand still",
            "VireoEventsMissed",
        )


def events_of_other_times(facts: Facts) -> Iterator[Finding]:
    """Events that are refused for their time: their caller's clock is off."""
    future = facts.increase("vireo_events_refused_total", reason="future")
    past = facts.increase("vireo_events_refused_total", reason="past")
    if future or past:
        yield Finding(
            "callers-clock-off",
            "risk",
            "Events are refused for their time: the clock of a site, or of a gateway, is off",
            (f"{future:.0f} lie in the future and {past:.0f} too far in the past",),
            "Compare the sites' clocks with the gateways'; VIREO_EVENT_MAX_PAST bounds their age",
            "VireoEventsRefused",
        )
