"""The online store of features, and what makes slates worse without failing."""

from __future__ import annotations

from collections.abc import Iterator

from vireo.ops.doctor.causes.load import hurried_calls
from vireo.ops.doctor.facts import Facts
from vireo.ops.doctor.finding import Finding, ago, found, listed

_FAILED_SHARE = 0.2
"""Share of reads that fail from which features can't be read."""
_MIN_SHARE = 0.02
"""Share of slates that lack a source from which that is a finding."""
OLD_SECONDS = 14 * 86_400.0


def store_locked(facts: Facts) -> Iterator[Finding]:
    """SQLite that another program has locked, so that consumers can't write."""
    store = facts.ill("store")
    if store is not None and store.fault == "locked":
        retries = facts.increase("vireo_consumer_retries_total")
        again = [f"consumers tried again {retries:.0f} times just now"] if retries else []
        yield found("store-locked", [f"{store.where}: {store.problem}", *again])


def store_down(facts: Facts) -> Iterator[Finding]:
    """Redis that is away or hangs."""
    store = facts.ill("store")
    if store is not None and store.fault in ("refused", "unreachable", "silent", "failed"):
        evidence = [f"{store.where}: {store.problem}", *_unread(facts)]
        yield found("store-down", evidence, "hangs" if store.fault == "silent" else "")


def no_features(facts: Facts) -> Iterator[Finding]:
    """Features that aren't there, or that nobody can read."""
    store = facts.ill("store")
    if store is not None and store.fault == "missing":
        yield found("no-features", [f"{store.where}: {store.problem}", *_unread(facts)])
    elif store is None and _reads_fail(facts):
        yield found("no-features", _unread(facts), "unread")


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
    if refusing:
        seen = "the rules before stay in effect (vireo_rules_valid is 0)"
        yield found("rules-refused", [seen], names=listed(refusing))


def features_old(facts: Facts) -> Iterator[Finding]:
    """Features that nobody has built for a long time."""
    metric = "vireo_features_built_timestamp_seconds"
    if (age := facts.age(metric)) > OLD_SECONDS:
        yield found("features-old", [f"{metric} of the gateways"], time=ago(age))


CAUSES = (store_locked, store_down, no_features, source_missing, rules_refused, features_old)
