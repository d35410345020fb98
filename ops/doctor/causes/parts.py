"""The parts beside pods: control plane, log, consumers, online store, S3 and its releases."""

from __future__ import annotations

from collections.abc import Iterator

from vireo.ops.doctor.causes.load import hurried_calls
from vireo.ops.doctor.causes.processes import dying, last_seen, state_of
from vireo.ops.doctor.conditions import Finding, ago, found, listed, named
from vireo.ops.doctor.facts import Facts

_LATE_SECONDS = 15.0
"""Lag from which gateways declare that features may lack events."""
_MANY_MESSAGES = 100
_OLD_TAKEDOWNS = 60.0
"""Age in seconds that they don't reach while the log can be read."""
_UNARCHIVED_SECONDS = 3600.0
_FILLED = 0.8
_FAILED_SHARE = 0.2
"""Share of reads that fail from which features can't be read."""
_MIN_SHARE = 0.02
"""Share of slates that lack a source from which that is a finding."""
_OLD_SECONDS = 14 * 86_400.0


def configuration_refused(facts: Facts) -> Iterator[Finding]:
    """Resources that an Envoy has NACKed, by its own word or by the control plane's count."""
    # Envoys may refuse one resource for reasons of their own.
    lines = [
        (f"{each.kind} {each.name}", f"{each.envoy} refuses {each.kind} {each.name}: {each.words}")
        for each in facts.refusals
    ] or [
        (labels["kind"], f"{count:.0f} {labels['kind']} refused")
        for _, labels, count in facts.samples("vireo_xds_refused_resources")
        if count
    ]
    yield from named("configuration-refused", lines)


def control_down(facts: Facts) -> Iterator[Finding]:
    """A control plane that doesn't answer, or that does and to which Envoy isn't connected."""
    part, (evidence, since) = facts.part("control"), _away(facts, "control")
    alone = any(not each.knows_control for each in facts.edges)
    if not evidence:
        if part is not None and alone:
            seen = f"Envoy's control_plane.connected_state is 0; {part.where} answers"
            yield found("envoy-alone", [seen])
        return
    if part is not None and not part.fault and facts.refusals:
        return  # another control plane has its port
    if alone:
        evidence.append("Envoy isn't connected to it")
    yield found("control-down", evidence, "over" if since else "", since)


def _away(facts: Facts, name: str) -> tuple[list[str], float]:
    """Return evidence that a part is away, and how many seconds ago it was; 0 if it is now."""
    part, processes = facts.part(name), list(facts.of_kind(name))
    evidence = state_of(processes)
    if part is not None and part.fault:
        return [*evidence, f"{part.where}: {part.problem}"], 0.0
    return evidence, last_seen(processes) if part is not None else 0.0


def discovery_fails(facts: Facts) -> Iterator[Finding]:
    """A source of pods that can't be read."""
    for page, labels, age in facts.samples("vireo_discovery_success_age_seconds"):
        source = labels.get("source", "")
        failed = page.increase("vireo_discovery_failures_total", source=source)
        if failed and source != "members" and age > 0:
            seen = f"{failed:.0f} failed attempts just now, the last success {ago(age)} ago"
            yield found("discovery-fails", [seen], what=source)


def log_down(facts: Facts) -> Iterator[Finding]:
    """A log that stores nothing."""
    evidence, since = _away(facts, "log")
    if away := _without(facts, "vireo_log_connected"):
        evidence.append(f"{listed(away)} can't reach it")
    old = max((page.value("vireo_live_takedowns_age_seconds") for page in facts.pages), default=0)
    if old > _OLD_TAKEDOWNS:
        evidence.append(f"videos that were removed in the last {ago(old)} may be shown")
    if refused := facts.increase("vireo_events_refused_total", reason="away"):
        evidence.append(
            f"gateways refused {refused:.0f} events within {facts.seconds:.0f} s since it is away"
        )
    if evidence:
        yield found("log-down", evidence, "over" if since else "", since)


def _without(facts: Facts, metric: str) -> list[str]:
    """Return the processes that have a metric, at 0."""
    return [page.source for page in facts.pages if page.has(metric) and not page.value(metric)]


def consumer_down(facts: Facts) -> Iterator[Finding]:
    """A partition that nobody applies."""
    consumers = list(facts.of_kind("consumer"))
    runs = all(each.state == "healthy" and not each.stopped for each in consumers)
    if dying(consumers) and runs and _late(facts):
        return  # it works on what it missed, which is what lasts
    evidence = state_of(consumers)
    evidence += [
        f"{page.source}: {page.problem}"
        for page in facts.pages
        if page.source.startswith("consumer") and page.fault == "silent"
    ]
    if evidence:
        yield found("consumer-down", [*evidence, *_lag(facts)], since=last_seen(consumers))


def consumer_waits(facts: Facts) -> Iterator[Finding]:
    """A consumer that another keeps from its partition."""
    waiting = _without(facts, "vireo_consumer_lease_held")
    away = facts.ill("store") or facts.ill("log") or state_of(facts.of_kind("consumer", "log"))
    if not away:
        seen = "stands by (vireo_consumer_lease_held)"
        yield from named("consumer-waits", ((each, f"{each} {seen}") for each in waiting))


def consumer_behind(facts: Facts) -> Iterator[Finding]:
    """A consumer that works and is far behind."""
    if _late(facts):
        applied = facts.increase("vireo_consumer_events_total")
        applies = f"{applied:.0f} events applied within {facts.seconds:.0f} s"
        evidence = [*_lag(facts), applies, *state_of(facts.of_kind("consumer"))]
        yield found("consumer-behind", evidence)


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


def events_lost(facts: Facts) -> Iterator[Finding]:
    """Events that consumers set aside, and messages that the log kept no longer for them."""
    if count := facts.increase("vireo_consumer_dead_events_total"):
        seen = f"{count:.0f} messages within {facts.seconds:.0f} s"
        yield found("events-set-aside", [seen])
    counts = [(each.source, each.value("vireo_log_missed_messages_total")) for each in facts.pages]
    missed = [f"{process}: {count:.0f} messages" for process, count in counts if count]
    if missed:
        yield found("events-missed", missed)


def features_behind(facts: Facts) -> Iterator[Finding]:
    """Features that lack events, by the gateways' own account."""
    evidence = []
    if late := max((page.value("vireo_features_behind") for page in facts.pages), default=0.0):
        evidence.append(f"the events of {late:.0f} partitions reach the features late")
    declared = facts.increase("vireo_degradations_total", kind="features_behind")
    if declared or any("features_behind" in each.degradations for each in facts.slates):
        evidence.append(f"slates declare features_behind ({declared:.0f} just now)")
    if evidence:
        yield found("features-behind", [*evidence, *_lag(facts)])


def log_filling(facts: Facts) -> Iterator[Finding]:
    """A log with little room left, or callers that have taken their share of it."""
    used: dict[str, float] = {}
    for _, labels, share in facts.samples("vireo_log_used_ratio"):
        stream = labels.get("stream", "events")
        used[stream] = max(share, used.get(stream, 0.0))
    refused = facts.increase("vireo_events_refused_total", reason="full")
    full = [f"stream {stream} is {share:.0%} full" for stream, share in used.items()]
    if max(used.values(), default=0.0) > _FILLED or refused:
        evidence = [*full, f"{refused:.0f} events were refused just now"]
        yield found("log-filling", evidence, "refusing" if refused else "")


def slates_not_recorded(facts: Facts) -> Iterator[Finding]:
    """Slates that gateways drop, and an archive that is behind."""
    evidence = []
    if dropped := facts.increase("vireo_slates_dropped_total"):
        evidence.append(f"{dropped:.0f} slates were dropped just now")
    lags = {
        labels["kind"]: seconds
        for _, labels, seconds in facts.samples("vireo_archive_lag_seconds")
        if seconds > _UNARCHIVED_SECONDS
    }
    evidence += [f"{kind} of {ago(seconds)} ago aren't archived" for kind, seconds in lags.items()]
    if evidence:
        yield found("slates-not-recorded", evidence)


def events_of_other_times(facts: Facts) -> Iterator[Finding]:
    """Events that are refused for their time: their caller's clock is off."""
    future = facts.increase("vireo_events_refused_total", reason="future")
    past = facts.increase("vireo_events_refused_total", reason="past")
    if future or past:
        seen = f"{future:.0f} lie in the future and {past:.0f} too far in the past"
        yield found("callers-clock-off", [seen])


def store_fails(facts: Facts) -> Iterator[Finding]:
    """An online store that is locked, away or empty, or that nobody can read."""
    store = facts.ill("store")
    if store is None:
        if _reads_fail(facts):
            yield found("no-features", _unread(facts), "unread")
        return
    said = f"{store.where}: {store.problem}"
    if store.fault == "locked":  # SQLite, by another program
        retries = facts.increase("vireo_consumer_retries_total")
        again = [f"consumers tried again {retries:.0f} times just now"] if retries else []
        yield found("store-locked", [said, *again])
    elif store.fault == "missing":
        yield found("no-features", [said, *_unread(facts)])
    else:
        variant = "hangs" if store.fault == "silent" else ""
        yield found("store-down", [said, *_unread(facts)], variant)


def _reads_fail(facts: Facts) -> bool:
    """Return whether reads fail by gateways' counts, not for lack of their callers' time."""
    if any(page.value("vireo_feature_store_circuit_open") for page in facts.pages):
        return True
    reads = facts.increase("vireo_online_store_seconds_count")
    failed = reads - facts.increase("vireo_online_store_seconds_count", outcome="ok")
    return failed > _FAILED_SHARE * reads and failed > hurried_calls(facts)


def _unread(facts: Facts) -> list[str]:
    """Return what gateways say of reads that fail."""
    lines = []
    if skipping := facts.sources("vireo_feature_store_circuit_open"):
        lines.append(f"{listed(skipping)} skips the online store since it fails")
    counts = [
        (facts.increase("vireo_online_store_seconds_count", outcome=outcome), f"reads: {outcome}")
        for outcome in ("timeout", "error")
    ] + [
        (facts.increase("vireo_degradations_total", kind=kind), f"slates declared {kind}")
        for kind in ("features_missing", "features_stale")
    ]
    return lines + [f"{count:.0f} {what}, just now" for count, what in counts if count]


def source_missing(facts: Facts) -> Iterator[Finding]:
    """A candidate source that fails."""
    missing = facts.increase("vireo_degradations_total", kind="source_missing")
    asked = any("source_missing" in each.degradations for each in facts.slates)
    if asked or missing > _MIN_SHARE * facts.increase("vireo_slates_total") > 0:
        seen = f"{missing:.0f} slates lacked a source or its score just now"
        yield found("source-missing", [seen])


def rules_refused(facts: Facts) -> Iterator[Finding]:
    """Rules of the site that aren't in effect."""
    refusing = [
        page.source
        for page in facts.pages
        # A gateway without a file of rules counts none as valid either.
        if page.value("vireo_rules_loads_total") and not page.value("vireo_rules_valid")
    ]
    seen = "the rules before stay in effect (vireo_rules_valid is 0)"
    yield from named("rules-refused", ((each, seen) for each in refusing))


def grown_old(facts: Facts) -> Iterator[Finding]:
    """Features that nobody has built, or a release that was trained, a long time ago."""
    for cause, metric, seen_by in (
        ("features-old", "vireo_features_built_timestamp_seconds", "gateways"),
        ("release-old", "vireo_release_created_timestamp_seconds", "pods"),
    ):
        if (age := facts.age(metric)) > _OLD_SECONDS:
            yield found(cause, [f"{metric} of the {seen_by}"], time=ago(age))


def s3_down(facts: Facts) -> Iterator[Finding]:
    """S3 that doesn't answer: what is served goes on, nothing new comes."""
    evidence, since = _away(facts, "s3")
    variant = "" if evidence else "over"
    if cached := [each.name for each in facts.pods if each.origin == "cache"]:
        evidence.append(f"{listed(cached)} serves its release from the cache")
    if evidence:
        if failed := facts.increase("vireo_s3_requests_total", outcome="unavailable"):
            evidence.append(f"{failed:.0f} requests of processes failed just now")
        yield found("s3-down", evidence, variant, since)


def no_release(facts: Facts) -> Iterator[Finding]:
    """A production channel that names nothing."""
    if any(each.name == "production" and not each.release for each in facts.channels):
        yield found("no-release", ["S3 answers, and the channel was never set"])


def mixed_releases(facts: Facts) -> Iterator[Finding]:
    """Pods of production that serve other releases than the rest, for longer than a rollout."""
    serving = [(pod.release, pod.name) for pod in facts.pods if pod.pool == "production"]
    if not facts.pods:
        serving = [
            (labels["release"], page.source)
            for page, labels, value in facts.samples("vireo_release_info", role="serving")
            if value and labels.get("channel") == "production"
        ]
    releases = dict.fromkeys(release for release, _ in serving if release)
    mixed = facts.increase("vireo_degradations_total", kind="mixed_releases")
    if len(releases) < 2:
        return
    evidence = [
        f"{release}: {listed(name for each, name in serving if each == release)}"
        for release in releases
    ]
    if mixed:
        evidence.append(f"{mixed:.0f} slates mixed them within {facts.seconds:.0f} s")
    yield found("mixed-releases", evidence, "mixing" if mixed else "", count=str(len(releases)))


def release_refused(facts: Facts) -> Iterator[Finding]:
    """Pods that can't follow their channel, though S3 answers."""
    why = [(each.name, f"{each.name}: {each.failure}") for each in facts.pods if each.failure]
    if not facts.pods:
        seen = "its latest attempt to follow the channel failed (vireo_release_failing)"
        failing = facts.sources("vireo_release_failing")
        why = [(name, f"{name}: {seen}") for name in failing]
    yield from named("release-refused", why)


def release_stale(facts: Facts) -> Iterator[Finding]:
    """A channel that names another release than every pod serves."""
    for channel in facts.channels:
        pods = [each for each in facts.pods if each.channel == channel.name and each.release]
        late = [each for each in pods if each.release != channel.release]
        loading = any(each.loading for each in late)
        if channel.release and late and len(late) == len(pods) and not loading:
            evidence = (f"{each.name} serves {each.release}" for each in late)
            yield found("release-stale", evidence, channel=channel.name, release=channel.release)
