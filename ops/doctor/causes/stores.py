"""The online store of features, and S3 with the releases."""

from __future__ import annotations

from collections.abc import Iterator

from vireo.ops.doctor.causes.load import hurried_calls
from vireo.ops.doctor.causes.processes import last_seen, state_of
from vireo.ops.doctor.facts import Facts
from vireo.ops.doctor.finding import Finding, listed, shown

_FAILED_SHARE = 0.2
"""Share of reads that fail from which features can't be read."""


def store_locked(facts: Facts) -> Iterator[Finding]:
    """SQLite that another program has locked, so that consumers can't write."""
    store = facts.ill("store")
    if store is not None and store.fault == "locked":
        retries = facts.increase("vireo_consumer_retries_total")
        yield Finding(
            "store-locked",
            "failing",
            "Another program has the online store locked: events can't be applied",
            shown(
                [f"{store.where}: {store.problem}"]
                + ([f"consumers tried again {retries:.0f} times just now"] if retries else [])
            ),
            "End that program or its transaction; consumers try again within 5 s. For more than "
            "one writer use Redis (VIREO_ONLINE_STORE=redis)",
            "VireoOnlineStoreLocked",
        )


def store_down(facts: Facts) -> Iterator[Finding]:
    """Redis that is away or hangs."""
    store = facts.ill("store")
    if store is not None and store.fault in ("refused", "unreachable", "silent", "failed"):
        hangs = store.fault == "silent"
        yield Finding(
            "store-down",
            "failing",
            f"The online store {'hangs' if hangs else 'is away'}: viewers' features can't be read",
            shown([f"{store.where}: {store.problem}", *_unread(facts)]),
            "Slates go on with cached features or none, and say so. Start Redis or fail over; what "
            "it lost, consumers apply again from the log",
            "VireoOnlineStoreDown",
        )


def no_features(facts: Facts) -> Iterator[Finding]:
    """Features that aren't there, or that nobody can read."""
    store = facts.ill("store")
    if store is not None and store.fault == "missing":
        yield Finding(
            "no-features",
            "failing",
            "There are no features: the online store lacks what gateways read",
            shown([f"{store.where}: {store.problem}", *_unread(facts)]),
            "Build them: vireo features build DATASET; gateways open them by themselves",
            "VireoNoFeatures",
        )
    elif store is None and _reads_fail(facts):
        yield Finding(
            "no-features",
            "failing",
            "Viewers' features can't be read",
            shown(_unread(facts)),
            "Look whether the online store answers and has the features of the served data set: "
            "gateways' logs say what a read fails with",
            "VireoNoFeatures",
        )


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
    if skipping := [
        page.source for page in facts.pages if page.value("vireo_feature_store_circuit_open")
    ]:
        lines.append(f"{listed(skipping)} skips the online store since it fails")
    counts = [
        (facts.increase("vireo_online_store_seconds_count", outcome=outcome), f"reads: {outcome}")
        for outcome in ("timeout", "error")
    ] + [
        (facts.increase("vireo_degradations_total", kind=kind), f"slates declared {kind}")
        for kind in ("features_missing", "features_stale")
    ]
    lines += [f"{count:.0f} {what}, just now" for count, what in counts if count]
    return lines


def s3_down(facts: Facts) -> Iterator[Finding]:
    """S3 that doesn't answer: what is served goes on, nothing new comes."""
    part, evidence = facts.ill("s3"), state_of(facts.of_kind("s3"))
    if part is not None:
        evidence.append(f"{part.where}: {part.problem}")
    cached = [each.name for each in facts.pods if each.origin == "cache"]
    if evidence or cached:
        evidence += [f"{listed(cached)} serves its release from the cache"] if cached else []
        if failed := facts.increase("vireo_s3_requests_total", outcome="unavailable"):
            evidence.append(f"{failed:.0f} requests of processes failed just now")
        down = part is not None or bool(state_of(facts.of_kind("s3")))
        yield Finding(
            "s3-down",
            "failing" if down else "note",
            "S3 is away: no release can be published, promoted or loaded"
            if down
            else "S3 was away when pods started",
            shown(evidence),
            "Pods serve what they have, and a restarted one what is in its cache; a new machine "
            "can't start. Start S3, or look at its keys, bucket and network",
            "VireoS3Down",
            last_seen(facts.of_kind("s3")) if facts.part("s3") and part is None else 0.0,
        )


def no_release(facts: Facts) -> Iterator[Finding]:
    """A production channel that names nothing."""
    if any(each.name == "production" and not each.release for each in facts.channels):
        yield Finding(
            "no-release",
            "failing",
            "Channel production names no release",
            ("S3 answers, and the channel was never set",),
            "Publish one: vireo release publish",
            "VireoReleaseStale",
        )
