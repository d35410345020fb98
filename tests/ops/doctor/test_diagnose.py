"""Which cause is named first, for facts as each fault leaves them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.builders.doctor_facts import (
    BEHIND,
    DAY,
    HEALTHY,
    PODS,
    RECOMMEND,
    also,
    consumer,
    counted,
    edge,
    gateway,
    killed,
    page,
    part,
    with_disk,
    with_hosts,
    with_pods,
    with_process,
)
from vireo.ops.doctor.conditions import conditions
from vireo.ops.doctor.diagnose import diagnose
from vireo.ops.doctor.facts import (
    Certificate,
    Channel,
    Clock,
    Edge,
    Facts,
    Host,
    Machine,
    Page,
    Process,
    Refusal,
)

_DEADLINE = "DEADLINE_EXCEEDED"
_EVENTS = "/vireo.v1.EventService/RecordEvents"
_INFER = "/inference.GRPCInferenceService/ModelInfer"
_NO_TIME = {"service": "gateway", "stage": "retrieval", "reason": "skipped"}
_OUT = frozenset({"failed_active_health_check"})
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
            with_process("ranking-1", stopped=True, busy=0.0),
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
                counted(
                    "vireo_invalid_responses_total",
                    12,
                    stage="ranking",
                    address="127.0.0.1:8122",
                )
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
                counted("vireo_rpcs_shed_total", 500, method=RECOMMEND, reason="queue"),
                counted("vireo_rpcs_total", 40, method=RECOMMEND, code=_DEADLINE),
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
                counted("vireo_rpcs_total", 100, method=RECOMMEND, code="CANCELLED"),
                counted("vireo_rpcs_total", 140, method=RECOMMEND, code=_DEADLINE),
                # There is no time for a read.
                counted("vireo_degradations_total", 90, kind="features_missing"),
                counted("vireo_online_store_seconds_count", 9, outcome="timeout"),
                counted("vireo_online_store_seconds_count", 20, outcome="ok"),
            ),
        ),
    ),
    "9: callers wait for 5 ms, and slates are nearly as quick": (
        "short-deadlines",
        also(
            HEALTHY,
            gateway(
                counted("vireo_rpcs_total", 10, method=RECOMMEND, code=_DEADLINE),
                counted("vireo_rpcs_total", 110, method=RECOMMEND, code="OK"),
                counted("vireo_stage_failures_total", 60, **_NO_TIME),
            ),
        ),
    ),
    "10: watchers beyond the limit": (
        "hostile-callers",
        also(
            edge(open_requests=90, requests=600, refused_streams=280),
            gateway(counted("vireo_rpcs_total", 200, method=RECOMMEND, code="CANCELLED")),
        ),
    ),
    "10: callers hold calls open, mostly of one gateway": (
        "hostile-callers",
        with_hosts(
            edge(open_requests=90, requests=600, refused_streams=280),
            "gateway-1",
            calls=8,
            latency=0.3,
            occupied=1.0,
        ),
    ),
    "10: silent calls": ("hostile-callers", edge(open_requests=900, requests=500)),
    "11: the log is dead": (
        "log-down",
        also(part("log", "refused", facts=killed("log")), BEHIND),
    ),
    "12: the log's disk is full": (
        "log-disk-full",
        also(part("log", "failed", facts=with_disk("the log of events", 0.0)), BEHIND),
    ),
    "13: the consumer is killed": ("consumer-down", also(killed("consumer-1"), BEHIND)),
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
            BEHIND,
        ),
    ),
    "14: the consumer died, and works on what it missed": (
        "consumer-behind",
        also(
            killed("consumer-1", "healthy", 20.0),
            consumer(lag_messages=190, lag_seconds=22),
            BEHIND,
        ),
    ),
    "15: another program has SQLite locked": (
        "store-locked",
        also(
            part("store", "locked"),
            consumer(counted("vireo_consumer_retries_total", 1), lag_messages=900, lag_seconds=15),
            BEHIND,
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
            part("edge", "failed", facts=with_pods(*PODS, problem="loading", release="")),
            channels=(Channel("production", ""),),
        ),
    ),
    "stale features": ("features-behind", also(HEALTHY, BEHIND)),
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
        with_pods(*PODS, failure="golden request 3 differs"),
    ),
    "no pod follows the channel": (
        "release-stale",
        replace(HEALTHY, channels=(Channel("production", "r2"),)),
    ),
    "S3 is dead": ("s3-down", part("s3", "refused", facts=killed("s3"))),
    "S3 hangs, and pods can't read the channel": (
        "s3-down",
        part("s3", "silent", facts=with_pods(*PODS, failure="S3 can't be reached")),
    ),
    "a certificate ends": (
        "certificate-ends",
        replace(HEALTHY, certificates=(Certificate("edge.crt", 5 * DAY),)),
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
    "18: eight callers are refused although hardly anything else happens": (
        "overload",
        also(
            HEALTHY,
            gateway(
                counted("vireo_rpcs_shed_total", 40, method=RECOMMEND, reason="limit"),
                counted("vireo_rpcs_total", 40, method=RECOMMEND, code="RESOURCE_EXHAUSTED"),
                counted("vireo_rpcs_total", 60, method=RECOMMEND, code="OK"),
            ),
        ),
    ),
    "a share of events is refused": (
        "calls-refused",
        also(
            HEALTHY,
            gateway(
                counted("vireo_rpcs_total", 50, method=_EVENTS, code="RESOURCE_EXHAUSTED"),
                counted("vireo_rpcs_total", 150, method=RECOMMEND, code="OK"),
            ),
        ),
    ),
    "runs of a model are refused": (
        "calls-refused",
        also(
            HEALTHY,
            gateway(
                counted("vireo_rpcs_total", 30, method=_INFER, code="RESOURCE_EXHAUSTED"),
                counted("vireo_rpcs_total", 20, method=_INFER, code="OK"),
            ),
        ),
    ),
    "few calls, of which many are refused": (
        "calls-refused",
        replace(
            HEALTHY,
            pages=(
                replace(
                    gateway(
                        counted("vireo_rpcs_total", 3, method=_EVENTS, code="RESOURCE_EXHAUSTED"),
                        counted("vireo_rpcs_total", 20, method=RECOMMEND, code="OK"),
                    ).pages[0],
                    seconds=30.0,
                ),
                *HEALTHY.pages[1:],
            ),
        ),
    ),
    "hardly any memory": ("memory-short", replace(HEALTHY, machines=(Machine(0.6, 0.01),))),
    "a site's clock is off": (
        "callers-clock-off",
        also(HEALTHY, gateway(counted("vireo_events_refused_total", 30, reason="future"))),
    ),
    "the log fills up": (
        "log-filling",
        also(HEALTHY, gateway(counted("vireo_log_used_ratio", 0.81, stream="events"))),
    ),
    "dead letters fill their stream": (
        "log-filling",
        also(HEALTHY, gateway(counted("vireo_log_used_ratio", 0.81, stream="dead"))),
    ),
    "a caller has its share of the log": (
        "log-filling",
        also(HEALTHY, gateway(counted("vireo_events_refused_total", 30, reason="full"))),
    ),
    "events can't be applied": (
        "events-set-aside",
        also(HEALTHY, consumer(counted("vireo_consumer_dead_events_total", 3))),
    ),
    "a consumer came too late": (
        "events-missed",
        also(HEALTHY, consumer(counted("vireo_log_missed_messages_total", 70))),
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
    _, facts = CASES["10: callers hold calls open, mostly of one gateway"]
    found = {each.cause: each.follows_from for each in diagnose(facts)}
    assert found == {"hostile-callers": "", "pod-slow": "hostile-callers"}


def test_slow_callers_of_an_overloaded_stack_are_not_blamed() -> None:
    _, overload = CASES["7: four times the sustainable load"]
    late = gateway(
        counted("vireo_rpcs_total", 300, method=RECOMMEND, code=_DEADLINE),
        counted("vireo_stage_failures_total", 700, **_NO_TIME),
    )
    facts = also(overload, late)
    causes = [each.cause for each in diagnose(facts)]
    assert causes[0] == "overload"
    assert "short-deadlines" not in causes


@pytest.mark.parametrize(("refused", "found"), [(10, []), (11, ["calls-refused"])])
def test_a_share_of_refused_calls_above_a_twentieth_is_a_finding(
    refused: int, found: list[str]
) -> None:
    facts = gateway(
        counted("vireo_rpcs_total", refused, method=_EVENTS, code="RESOURCE_EXHAUSTED"),
        counted("vireo_rpcs_total", 200 - refused, method=RECOMMEND, code="OK"),
        # Inner calls count for nobody's share.
        counted("vireo_rpcs_total", 5000, method="/vireo.v1.RankingService/RankCandidates"),
    )
    assert [each.cause for each in diagnose(facts)] == found


def test_refused_calls_follow_from_the_overload_that_sheds_them() -> None:
    _, facts = CASES["18: eight callers are refused although hardly anything else happens"]
    found = {each.cause: each.follows_from for each in diagnose(facts)}
    assert found == {"overload": "", "calls-refused": "overload"}


def test_what_explains_other_causes_is_listed_before_them() -> None:
    """A cause that comes first by order and last by what it explains would never explain it."""
    table = conditions()
    late = [
        (each.cause, other)
        for each in table.values()
        for other in each.explains
        if table[other].level == each.level and table[other].order < each.order
    ]
    assert late == []
