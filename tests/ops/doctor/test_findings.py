"""In which order findings come, and facts that are no finding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.builders.doctor_facts import (
    BEHIND,
    HEALTHY,
    also,
    killed,
    page,
    part,
    with_hosts,
    with_pods,
    with_process,
)
from vireo.ops.doctor.diagnose import diagnose
from vireo.ops.doctor.facts import Facts, Host, Page, Refusal


def test_an_independent_fault_comes_before_what_follows_from_the_first() -> None:
    hangs = with_process("ranking-1", killed("consumer-1"), stopped=True, busy=0.0)
    facts = with_hosts(hangs, "ranking-2", flags=frozenset({"failed_outlier_check"}))
    assert [each.cause for each in diagnose(facts)] == ["pod-hangs", "consumer-down", "pod-slow"]


def test_what_is_over_is_a_note_behind_what_fails() -> None:
    facts = part("log", "refused", facts=killed("ranking-1", "healthy", ago=120.0))
    assert [(each.cause, each.level) for each in diagnose(facts)] == [
        ("log-down", "failing"),
        ("died-before", "note"),
    ]


def test_what_died_last_comes_first_among_what_is_back() -> None:
    facts = killed("consumer-1", "healthy", 5.0, killed("log", "healthy", 30.0))
    assert [each.cause for each in diagnose(facts)] == ["consumer-down", "log-down"]
    assert diagnose(killed("gateway-1", facts=facts))[0].cause == "pod-dies"


def test_what_follows_from_what_is_back_comes_after_it() -> None:
    facts = also(killed("log", "healthy", 10.0), BEHIND)
    assert [each.cause for each in diagnose(facts)] == ["log-down", "features-behind"]


def test_takedowns_that_are_old_are_evidence_that_the_log_is_away() -> None:
    def facts(age: float) -> Facts:
        old = page("gateway-1", {"vireo_live_takedowns_age_seconds": age})
        return replace(HEALTHY, pages=(*HEALTHY.pages, old))

    [finding] = diagnose(facts(7300.0))
    assert finding.cause == "log-down"
    assert "videos that were removed in the last 2 h may be shown" in finding.evidence
    assert diagnose(facts(20.0)) == []


@pytest.mark.parametrize(
    "facts",
    [
        HEALTHY,
        Facts(),
        # Pods that only this machine can't reach.
        with_hosts(HEALTHY, "ranking-1", "ranking-2", reach="unreachable"),
        # One that stood still for a moment.
        with_hosts(HEALTHY, "gateway-1", calls=8, latency=0.3, occupied=0.3),
        # Pods that are all slow can't be told from each other.
        with_hosts(HEALTHY, "ranking-1", "ranking-2", latency=0.3, occupied=1.0),
    ],
)
def test_what_is_well_or_cannot_be_told_is_no_finding(facts: Facts) -> None:
    assert diagnose(facts) == []


def test_a_busy_pod_that_is_silent_does_not_hang() -> None:
    facts = with_pods("gateway-1", problem="silent", fault="silent")
    assert "pod-hangs" not in [each.cause for each in diagnose(facts)]


def test_a_deployment_elsewhere_is_judged_by_its_pages() -> None:
    facts = Facts(
        pages=(
            Page("10.1.0.7:9100", fault="refused", problem="nothing listens there"),
            page("10.1.0.8:9100", {"vireo_release_failing": 1}),
        )
    )
    assert [each.cause for each in diagnose(facts)] == ["pod-dies", "release-refused"]


def test_many_lines_of_evidence_are_counted() -> None:
    refusals = tuple(Refusal("envoy", "clusters", f"c{number}", "no") for number in range(20))
    [finding] = diagnose(replace(HEALTHY, refusals=refusals))
    assert len(finding.evidence) == 6
    assert finding.evidence[-1] == "and 15 more like these"


def test_what_envoys_say_of_one_resource_is_all_evidence() -> None:
    refusals = tuple(Refusal(f"envoy-{number}", "routes", "edge", "no") for number in (1, 2))
    [finding] = diagnose(replace(HEALTHY, refusals=refusals))
    assert "configuration: routes edge" in finding.title
    assert finding.evidence == (
        "envoy-1 refuses routes edge: no",
        "envoy-2 refuses routes edge: no",
    )


@pytest.mark.parametrize(
    ("cause", "changes"),
    [
        ("pod-unreachable", {"reach": "unreachable", "flags": frozenset({"failed_eds_health"})}),
        ("endpoint-dead", {"reach": "refused", "flags": frozenset({"failed_eds_health"})}),
        ("pod-errors", {"calls": 50, "errors": 40}),
        ("pod-slow", {"calls": 50, "timeouts": 40}),
    ],
)
def test_a_pod_of_two_clusters_has_evidence_of_each(cause: str, changes: dict[str, Any]) -> None:
    clusters = ("gateway", "gateway_batch")
    hosts = tuple(
        Host(cluster, f"10.1.0.{number}:8443", f"pod-{number}", calls=50)
        for cluster in clusters
        for number in (7, 8)
    )
    [finding] = diagnose(with_hosts(Facts(hosts=hosts), "pod-7", **changes))
    assert finding.cause == cause
    assert "pod-7" in finding.title
    assert len(finding.evidence) == len(clusters)
