"""Names the causes that explain the facts, the likeliest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeAlias

from vireo.ops.doctor.causes import control, events, load, machine, pods, processes, quality, stores
from vireo.ops.doctor.facts import Facts
from vireo.ops.doctor.finding import Finding, Level

Cause: TypeAlias = Callable[[Facts], Iterator[Finding]]

CAUSES: tuple[Cause, ...] = (
    # What other causes follow from comes first; then what viewers notice most.
    machine.log_disk_full,
    machine.disk_full,
    machine.certificate_over,
    control.configuration_refused,
    processes.no_stack,
    stores.no_release,
    pods.stages_missing,
    stores.store_locked,
    stores.store_down,
    stores.no_features,
    events.log_down,
    control.control_down,
    processes.pods_hang,
    processes.pods_unreachable,
    processes.pods_die,
    processes.pods_gone,
    processes.endpoints_refused,
    pods.invalid_responses,
    pods.pods_fail,
    load.hostile_callers,
    pods.pods_slow,
    events.consumer_down,
    load.short_deadlines,
    load.overload,
    machine.clock_off,
    pods.mixed_releases,
    stores.s3_down,
    pods.release_failing,
    events.consumer_behind,
    events.features_behind,
    quality.source_missing,
    processes.edge_fails,
    # Risks and notes.
    events.consumer_waits,
    machine.disk_filling,
    machine.memory_short,
    machine.files_run_out,
    machine.certificate_ends,
    control.envoy_alone,
    processes.envoy_silent,
    control.discovery_fails,
    pods.not_admitted,
    pods.release_stale,
    load.rate_limited,
    load.calls_refused,
    quality.rules_refused,
    quality.features_old,
    quality.release_old,
    events.log_filling,
    events.events_set_aside,
    events.events_missed,
    events.events_of_other_times,
    processes.restarted,
)
"""In the order in which findings of the same level are listed."""

_LEVELS: tuple[Level, ...] = ("failing", "risk", "note")

EXPLAINS: Mapping[str, frozenset[str]] = {
    "log-disk-full": frozenset({"log-down", "consumer-behind", "features-behind", "disk-filling"}),
    "log-down": frozenset({"consumer-behind", "features-behind", "consumer-waits"}),
    "disk-full": frozenset({"s3-down", "release-refused", "log-down"}),
    "certificate-over": frozenset({"control-down", "edge-fails", "pod-dies", "envoy-alone"}),
    "clock-off": frozenset({"callers-clock-off", "s3-down"}),
    "configuration-refused": frozenset({"control-down"}),
    "edge-down": frozenset({"edge-fails"}),
    "no-release": frozenset({"no-candidate", "no-ranking", "no-gateway", "edge-fails"}),
    "no-gateway": frozenset({"pod-dies", "pod-refused", "edge-fails", "endpoint-dead"}),
    "no-candidate": frozenset({"pod-dies", "pod-refused", "endpoint-dead"}),
    "no-ranking": frozenset({"pod-dies", "pod-refused", "endpoint-dead"}),
    "store-locked": frozenset({"consumer-behind", "features-behind", "consumer-waits"}),
    "store-down": frozenset({"no-features", "consumer-behind", "features-behind"}),
    "no-features": frozenset({"consumer-behind", "features-behind"}),
    "consumer-down": frozenset({"consumer-behind", "features-behind", "consumer-waits"}),
    "consumer-behind": frozenset({"features-behind"}),
    "pod-hangs": frozenset({"pod-slow", "pod-errors", "pod-refused", "edge-fails"}),
    "pod-unreachable": frozenset({"pod-slow", "pod-errors", "pod-refused"}),
    "pod-dies": frozenset({"pod-errors", "pod-slow", "endpoint-dead", "pod-refused", "s3-down"}),
    # Calls that their callers hold open look like those of a slow pod.
    "hostile-callers": frozenset({"pod-slow", "calls-refused"}),
    "overload": frozenset({"edge-fails", "calls-refused"}),
    "short-deadlines": frozenset({"calls-refused"}),
    "rate-limited": frozenset({"calls-refused"}),
    "control-down": frozenset({"release-stale", "envoy-alone"}),
    "s3-down": frozenset({"release-refused", "release-stale"}),
}
"""Which causes another one leads to."""


def diagnose(facts: Facts) -> list[Finding]:
    """Return all findings: by level, what explains others before what follows from it.

    What lasts comes before what was seen a moment ago, and that before what is longer ago.
    """
    found = [finding for cause in CAUSES for finding in cause(facts)]
    found.sort(key=lambda finding: _LEVELS.index(finding.level))
    roots: list[str] = []
    explained = []
    for finding in found:
        by = next((root for root in roots if finding.cause in EXPLAINS.get(root, ())), "")
        explained.append(replace(finding, follows_from=by))
        if not by:
            roots.append(finding.cause)
    return sorted(
        explained,
        key=lambda each: (_LEVELS.index(each.level), bool(each.follows_from), each.since),
    )
