"""Which cause is named first, for facts as each fault leaves them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from clients.doctor.diagnose import CAUSES, EXPLAINS, diagnose
from clients.doctor.facts import (
    Certificate,
    Channel,
    Clock,
    Disk,
    Edge,
    Facts,
    Host,
    Machine,
    Part,
    Pod,
    Process,
    Refusal,
    Slate,
)
from clients.doctor.page import Labels, Page

_DAY = 86_400.0
_KINDS = ("candidate", "ranking", "gateway")
_PODS = [f"{kind}-{number}" for kind in _KINDS for number in (1, 2)]
_OTHERS = ["s3", "log", "control", "consumer-1", "envoy"]
_RECOMMEND = "/vireo.v1.RecommendationService/Recommend"
_DEADLINE = "DEADLINE_EXCEEDED"


def page(
    source: str,
    gauges: Mapping[str, float] | None = None,
    counts: Mapping[tuple[str, tuple[tuple[str, str], ...]], float] | None = None,
) -> Page:
    """A page whose counters grew from 100 by `counts` within 2 s."""
    now: dict[str, tuple[tuple[Labels, float], ...]] = {
        name: (({}, value),) for name, value in (gauges or {}).items()
    }
    before = dict(now)
    for (name, labels), grew in (counts or {}).items():
        now[name] = (*now.get(name, ()), (dict(labels), 100.0 + grew))
        before[name] = (*before.get(name, ()), (dict(labels), 100.0))
    return Page(source, now, before, 2.0)


def counted(metric: str, grew: float, **labels: str) -> dict[object, float]:
    return {(metric, tuple(labels.items())): grew}


def gateway(*counts: Mapping[object, float], **gauges: float) -> Facts:
    """Facts of a gateway's page."""
    merged = {key: grew for each in counts for key, grew in each.items()}
    return Facts(pages=(page("gateway-1", gauges, merged),))  # type: ignore[arg-type]


def consumer(*counts: Mapping[object, float], **gauges: float) -> Facts:
    merged = {key: grew for each in counts for key, grew in each.items()}
    full = {f"vireo_consumer_{name}": value for name, value in gauges.items()}
    return Facts(pages=(page("consumer-1", full, merged),))  # type: ignore[arg-type]


HEALTHY = Facts(
    processes=tuple(Process(name, "healthy", busy=0.05) for name in (*_PODS, *_OTHERS)),
    parts=tuple(Part(name, name) for name in ("edge", "envoy", "control", "log", "store", "s3")),
    pages=(
        page(
            "gateway-1",
            {"vireo_features_behind": 0},
            {("vireo_rpcs_total", (("method", _RECOMMEND), ("code", "OK"))): 160.0},
        ),
        page("consumer-1", {"vireo_consumer_lease_held": 1, "vireo_consumer_lag_messages": 3}),
    ),
    hosts=tuple(
        Host(name.split("-")[0], f"127.0.0.1:{port}", name, calls=50, all_calls=9000)
        for port, name in enumerate(_PODS, start=8120)
    ),
    edges=(Edge(open_requests=3, requests=160),),
    pods=tuple(Pod(name, release="r1", channel="production", origin="s3") for name in _PODS),
    slates=(Slate(0.006, release="r1"),),
    channels=(Channel("production", "r1"),),
    certificates=(Certificate("ca.crt", 3000 * _DAY), Certificate("edge.crt", 60 * _DAY)),
    clocks=(Clock("S3", 0.4, 0.6),),
    disks=(Disk("the log of events", "/log", 50e9, 100e9),),
    machines=(Machine(0.6, 0.5),),
)


def with_process(name: str, facts: Facts = HEALTHY, **changes: object) -> Facts:
    """Facts with another state of one process."""
    return replace(
        facts,
        processes=tuple(
            replace(each, **changes) if each.name == name else each  # type: ignore[arg-type]
            for each in facts.processes
        ),
    )


def killed(name: str, state: str = "restarting", ago: float = 1.0, facts: Facts = HEALTHY) -> Facts:
    return with_process(
        name, facts, state=state, ended="ended with signal SIGKILL", ended_ago=ago, restarts=4
    )


def with_pods(*names: str, **changes: object) -> Facts:
    """The healthy facts with other words of some pods."""
    return replace(
        HEALTHY,
        pods=tuple(
            replace(each, **changes) if each.name in names else each  # type: ignore[arg-type]
            for each in HEALTHY.pods
        ),
    )


def with_hosts(facts: Facts, *names: str, **changes: object) -> Facts:
    return replace(
        facts,
        hosts=tuple(
            replace(each, **changes) if each.name in names else each  # type: ignore[arg-type]
            for each in facts.hosts
        ),
    )


def part(name: str, fault: str, problem: str = "it says so", facts: Facts = HEALTHY) -> Facts:
    ill = Part(name, name, fault, problem)  # type: ignore[arg-type]
    return replace(facts, parts=tuple(ill if each.name == name else each for each in facts.parts))


def also(facts: Facts, *further: Facts) -> Facts:
    return Facts.merged([facts, *further])


def edge(**counts: float) -> Facts:
    return replace(HEALTHY, edges=(Edge(**counts),))  # type: ignore[arg-type]


def with_disk(what: str, free: float) -> Facts:
    return replace(HEALTHY, disks=(Disk(what, "/data", free, 100e9),))


_OUT = frozenset({"failed_active_health_check"})
_BEHIND = gateway(
    counted("vireo_degradations_total", 90, kind="features_behind"), vireo_features_behind=1
)
_GONE = {"problem": "nothing listens there", "fault": "refused", "release": ""}
_ALL_RANKING_DEAD = also(
    with_hosts(with_pods("ranking-1", "ranking-2", **_GONE), "ranking-1", "ranking-2", flags=_OUT),
    gateway(counted("vireo_degradations_total", 150, kind="ranking_skipped")),
    Facts(processes=(Process("ranking-3", "restarting", ended="ended with signal SIGKILL"),)),
)

CASES: dict[str, tuple[str, Facts]] = {
    "1: a pod of two is killed again and again": ("pod-dies", killed("ranking-1")),
    "1: it is back for now": ("pod-dies", killed("candidate-2", "healthy", 4.0)),
    "2: a rolling restart": (
        "restarted",
        with_process(
            "gateway-1", ended="ended with exit code 0", ended_ago=3.0, restarts=1, state="healthy"
        ),
    ),
    "3: a pod is stopped": (
        "pod-hangs",
        with_hosts(
            replace(with_process("ranking-1", stopped=True, busy=0.0)),
            "ranking-1",
            flags=_OUT,
            timed_out=True,
        ),
    ),
    "3: a pod is stuck": (
        "pod-hangs",
        replace(
            with_process("gateway-2", busy=0.0),
            pods=with_pods("gateway-2", problem="silent", fault="silent", release="").pods,
        ),
    ),
    "4: a pod answers UNAVAILABLE": (
        "pod-errors",
        with_hosts(HEALTHY, "candidate-1", errors=30, all_errors=30),
    ),
    "4: a pod is 50 times slower": (
        "pod-slow",
        with_hosts(HEALTHY, "ranking-2", calls=8, timeouts=4, all_timeouts=40),
    ),
    "4: a pod is slower, and within its time": (
        "pod-slow",
        with_hosts(HEALTHY, "gateway-1", calls=8, latency=0.3, occupied=0.9),
    ),
    "4: a slow pod is ejected for now": (
        "pod-slow",
        with_hosts(HEALTHY, "ranking-2", calls=0, flags=frozenset({"failed_outlier_check"})),
    ),
    "4: a pod sends NaN": (
        "invalid-responses",
        also(
            HEALTHY,
            gateway(
                counted("vireo_invalid_responses_total", 12, stage="ranking", pod="127.0.0.1:8122")
            ),
        ),
    ),
    "5: no ranking pod": ("no-ranking", _ALL_RANKING_DEAD),
    "5: no candidate pod": (
        "no-candidate",
        with_pods("candidate-1", "candidate-2", **_GONE),
    ),
    "5: the online store lacks its tables": (
        "no-features",
        also(
            part("store", "missing"),
            gateway(
                counted("vireo_degradations_total", 90, kind="features_missing"),
                vireo_feature_store_circuit_open=1,
            ),
        ),
    ),
    "6: the control plane is dead": (
        "control-down",
        replace(
            part("control", "refused", facts=killed("control")), edges=(Edge(knows_control=False),)
        ),
    ),
    "6: Envoy refuses routes, and the stack's own control plane finds its port taken": (
        "configuration-refused",
        replace(
            with_process("control", state="restarting", ended="ended with exit code 1"),
            refusals=(Refusal("envoy-1", "routes", "edge", "missing )"),),
        ),
    ),
    "7: four times the sustainable load": (
        "overload",
        also(
            edge(open_requests=120, requests=900),
            gateway(
                counted("vireo_rpcs_shed_total", 500, method=_RECOMMEND, reason="queue"),
                counted("vireo_rpcs_total", 40, method=_RECOMMEND, code=_DEADLINE),
                counted("vireo_degradations_total", 80, kind="candidates_reduced"),
                vireo_queue_standing=1,
            ),
            Facts(machines=(Machine(0.99, 0.5),)),
        ),
    ),
    "8: a host is cut off": (
        "pod-unreachable",
        also(
            HEALTHY,
            Facts(
                hosts=(
                    Host(
                        "candidate",
                        "10.9.8.7:9000",
                        "10.9.8.7:9000",
                        _OUT,
                        timed_out=True,
                        reach="unreachable",
                    ),
                )
            ),
        ),
    ),
    "9: callers wait for 5 ms": (
        "short-deadlines",
        also(
            HEALTHY,
            gateway(
                counted("vireo_rpcs_total", 100, method=_RECOMMEND, code="CANCELLED"),
                counted("vireo_rpcs_total", 60, method=_RECOMMEND, code=_DEADLINE),
                counted("vireo_rpcs_shed_total", 80, method=_RECOMMEND, reason="deadline"),
                # There is no time for a read.
                counted("vireo_degradations_total", 90, kind="features_missing"),
                counted("vireo_online_store_seconds_count", 9, outcome="timeout"),
                counted("vireo_online_store_seconds_count", 20, outcome="ok"),
            ),
        ),
    ),
    "10: watchers beyond the limit": (
        "hostile-callers",
        also(
            edge(open_requests=90, requests=600, refused_streams=280),
            gateway(counted("vireo_rpcs_total", 200, method=_RECOMMEND, code="CANCELLED")),
        ),
    ),
    "10: silent calls": ("hostile-callers", edge(open_requests=900, requests=500)),
    "11: the log is dead": (
        "log-down",
        also(part("log", "refused", facts=killed("log")), _BEHIND),
    ),
    "12: the log's disk is full": (
        "log-disk-full",
        also(part("log", "failed", facts=with_disk("the log of events", 0.0)), _BEHIND),
    ),
    "13: the consumer is killed": ("consumer-down", also(killed("consumer-1"), _BEHIND)),
    "13: a second consumer has the partition": (
        "consumer-waits",
        replace(HEALTHY, pages=consumer(lease_held=0).pages),
    ),
    "14: the consumer is far behind": (
        "consumer-behind",
        also(
            HEALTHY,
            consumer(
                counted("vireo_consumer_events_total", 9000, kind="play"),
                lag_messages=80_000,
                lag_seconds=30,
            ),
            _BEHIND,
        ),
    ),
    "14: the consumer died, and works on what it missed": (
        "consumer-behind",
        also(
            killed("consumer-1", "healthy", 20.0),
            consumer(lag_messages=190, lag_seconds=22),
            _BEHIND,
        ),
    ),
    "15: another program has SQLite locked": (
        "store-locked",
        also(
            part("store", "locked"),
            consumer(counted("vireo_consumer_retries_total", 1), lag_messages=900, lag_seconds=15),
            _BEHIND,
        ),
    ),
    "16: a gateway is killed while it records": ("pod-dies", killed("gateway-2")),
    "17: Redis hangs": (
        "store-down",
        also(
            part("store", "silent"),
            gateway(
                counted("vireo_degradations_total", 150, kind="features_stale"),
                vireo_feature_store_circuit_open=1,
            ),
            consumer(lag_messages=300, lag_seconds=8),
        ),
    ),
    "17: Redis is dead": ("store-down", part("store", "refused")),
    "no stack": ("edge-down", part("edge", "refused")),
    "Envoy is dead": ("edge-down", part("edge", "refused", facts=killed("envoy"))),
    "no gateway": (
        "no-gateway",
        part("edge", "failed", facts=with_pods("gateway-1", "gateway-2", **_GONE)),
    ),
    "no release": (
        "no-release",
        replace(
            part("edge", "failed", facts=with_pods(*_PODS, problem="loading", release="")),
            channels=(Channel("production", ""),),
        ),
    ),
    "stale features": ("features-behind", also(HEALTHY, _BEHIND)),
    "mixed releases": (
        "mixed-releases",
        also(
            with_pods("ranking-2", release="r0"),
            gateway(counted("vireo_degradations_total", 40, kind="mixed_releases")),
        ),
    ),
    "a pod isn't admitted": (
        "pod-refused",
        also(
            with_pods("ranking-2", problem="doesn't serve", fault="failed", loading="building r2"),
            Facts(
                pages=(
                    Page(
                        "control",
                        {
                            "vireo_endpoints": (
                                ({"cluster": "ranking", "state": "unadmitted"}, 1.0),
                            )
                        },
                    ),
                )
            ),
        ),
    ),
    "a release can't be loaded": (
        "release-refused",
        with_pods(*_PODS, failure="golden request 3 differs"),
    ),
    "no pod follows the channel": (
        "release-stale",
        replace(HEALTHY, channels=(Channel("production", "r2"),)),
    ),
    "S3 is dead": ("s3-down", part("s3", "refused", facts=killed("s3"))),
    "S3 hangs, and pods can't read the channel": (
        "s3-down",
        part("s3", "silent", facts=with_pods(*_PODS, failure="S3 can't be reached")),
    ),
    "a certificate ends": (
        "certificate-ends",
        replace(HEALTHY, certificates=(Certificate("edge.crt", 5 * _DAY),)),
    ),
    "a certificate has ended": (
        "certificate-over",
        part(
            "edge",
            "failed",
            facts=replace(HEALTHY, certificates=(Certificate("edge.crt", -60.0),)),
        ),
    ),
    "a clock is off": (
        "clock-off",
        also(replace(HEALTHY, clocks=(Clock("S3", -900, 0.6),)), part("s3", "failed")),
    ),
    "the cache's disk is nearly full": ("disk-filling", with_disk("the cache of releases", 1e9)),
    "a disk is full": ("disk-full", with_disk("the cache of releases", 0.0)),
    "a caller beyond its limit": ("rate-limited", edge(requests=900, refused_calls=400)),
    "hardly any memory": ("memory-short", replace(HEALTHY, machines=(Machine(0.6, 0.01),))),
    "a site's clock is off": (
        "callers-clock-off",
        also(HEALTHY, gateway(counted("vireo_events_refused_total", 30, reason="future"))),
    ),
    "events can't be applied": (
        "events-set-aside",
        also(HEALTHY, consumer(counted("vireo_consumer_dead_events_total", 3))),
    ),
    "discovery can't be read": (
        "discovery-fails",
        also(
            HEALTHY,
            Facts(
                pages=(
                    page(
                        "control",
                        {},
                        {
                            ("vireo_discovery_failures_total", (("source", "file"),)): 4,
                            ("vireo_discovery_success_age_seconds", (("source", "file"),)): 4,
                        },
                    ),
                )
            ),
        ),
    ),
    "reads of features time out": (
        "no-features",
        also(
            HEALTHY,
            gateway(
                counted("vireo_degradations_total", 90, kind="features_missing"),
                counted("vireo_online_store_seconds_count", 90, outcome="timeout"),
            ),
        ),
    ),
    "Envoy's admin interface doesn't answer": ("envoy-unseen", part("envoy", "failed")),
    "Envoy isn't connected": ("envoy-alone", edge(requests=100, knows_control=False)),
}


def test_healthy_facts_have_no_finding() -> None:
    assert diagnose(HEALTHY) == []


def test_no_facts_have_no_finding() -> None:
    assert diagnose(Facts()) == []


@pytest.mark.parametrize("case", CASES)
def test_the_cause_comes_first(case: str) -> None:
    cause, facts = CASES[case]
    findings = diagnose(facts)
    assert [each.cause for each in findings][:1] == [cause], [each.cause for each in findings]
    first = findings[0]
    assert not first.follows_from
    assert first.evidence
    assert all(first.evidence)
    assert first.advice


def test_what_follows_from_a_cause_says_so_and_comes_after_it() -> None:
    _, facts = CASES["12: the log's disk is full"]
    found = {each.cause: each.follows_from for each in diagnose(facts)}
    assert found == {
        "log-disk-full": "",
        "log-down": "log-disk-full",
        "features-behind": "log-disk-full",
    }


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
    facts = also(killed("log", "healthy", 10.0), _BEHIND)
    assert [each.cause for each in diagnose(facts)] == ["log-down", "features-behind"]


def test_pods_that_only_this_machine_cannot_reach_are_no_finding() -> None:
    assert diagnose(with_hosts(HEALTHY, "ranking-1", "ranking-2", reach="unreachable")) == []


def test_a_busy_pod_that_is_silent_does_not_hang() -> None:
    facts = with_pods("gateway-1", problem="silent", fault="silent")
    assert "pod-hangs" not in [each.cause for each in diagnose(facts)]


def test_a_pod_that_stood_still_for_a_moment_is_no_finding() -> None:
    assert diagnose(with_hosts(HEALTHY, "gateway-1", calls=8, latency=0.3, occupied=0.3)) == []


def test_pods_that_are_all_slow_are_not_told_from_each_other() -> None:
    both = with_hosts(HEALTHY, "ranking-1", "ranking-2", latency=0.3, occupied=1.0)
    assert diagnose(both) == []


def test_slow_callers_of_an_overloaded_stack_are_not_blamed() -> None:
    _, overload = CASES["7: four times the sustainable load"]
    late = gateway(counted("vireo_rpcs_total", 300, method=_RECOMMEND, code=_DEADLINE))
    facts = also(overload, late)
    assert "short-deadlines" not in [each.cause for each in diagnose(facts)]


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


def test_what_explains_other_causes_is_listed_before_them() -> None:
    """A cause that comes first by order and last by what it explains would never explain it."""
    order = {
        finding.cause: number
        for number, cause in enumerate(CAUSES)
        for _, facts in CASES.values()
        for finding in cause(facts)
    }
    late = [
        (cause, other)
        for cause, others in EXPLAINS.items()
        for other in others
        if cause in order and other in order and order[cause] > order[other]
    ]
    assert late == []
