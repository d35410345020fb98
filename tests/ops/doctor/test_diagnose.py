"""Which cause is named first, for facts as each fault leaves them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.builders.doctor_facts import (
    BEHIND,
    DAY,
    HEALTHY,
    PODS,
    also,
    answered,
    consumer,
    counted,
    degraded,
    edge,
    gateway,
    killed,
    part,
    process,
    shed,
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
    Refusal,
)

_DEADLINE, _EXHAUSTED = "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"
_EVENTS = "/vireo.v1.EventService/RecordEvents"
_INFER = "/inference.GRPCInferenceService/ModelInfer"
_OUT = frozenset({"failed_active_health_check"})
_GONE = {"problem": "nothing listens there", "fault": "refused", "release": ""}
_RANKING_GONE = with_pods("ranking-1", "ranking-2", **_GONE)
_HELD_OPEN = edge(open_requests=90, requests=600, refused_streams=280)


def beside(*counts: Mapping[object, float], **gauges: float) -> Facts:
    """The healthy facts and these of a gateway."""
    return also(HEALTHY, gateway(*counts, **gauges))


def control(*counts: Mapping[object, float]) -> Facts:
    """Facts of the control plane's page."""
    return Facts(pages=(replace(gateway(*counts).pages[0], source="control"),))


def skipped(grew: float) -> dict[object, float]:
    """Growth of how often there was no time left for retrieval."""
    stage = {"service": "gateway", "stage": "retrieval", "reason": "skipped"}
    return counted("vireo_stage_failures_total", grew, **stage)


def reads(grew: float, outcome: str) -> dict[object, float]:
    """Growth of how many reads of the online store ended so."""
    return counted("vireo_online_store_seconds_count", grew, outcome=outcome)


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
        beside(counted("vireo_invalid_responses_total", 12, stage="ranking", address="h:8122")),
    ),
    "5: no ranking pod": (
        "no-ranking",
        also(
            with_hosts(_RANKING_GONE, "ranking-1", "ranking-2", flags=_OUT),
            gateway(degraded("ranking_skipped", 150)),
            Facts(
                processes=(
                    process("ranking-3", state="restarting", ended="ended with signal SIGKILL"),
                )
            ),
        ),
    ),
    "5: no candidate pod": ("no-candidate", with_pods("candidate-1", "candidate-2", **_GONE)),
    "5: the online store lacks its tables": (
        "no-features",
        also(
            part("store", "missing"),
            gateway(degraded("features_missing"), vireo_feature_store_circuit_open=1),
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
            gateway(shed(500, "queue"), answered(40, _DEADLINE), vireo_queue_standing=1),
            Facts(machines=(Machine(0.99, 0.5),)),
        ),
    ),
    "8: a host is cut off": (
        "pod-unreachable",
        replace(
            HEALTHY,
            hosts=(
                *HEALTHY.hosts,
                Host("candidate", "h:1", "h:1", _OUT, timed_out=True, reach="unreachable"),
            ),
        ),
    ),
    "9: callers wait for 5 ms": (
        "short-deadlines",
        beside(
            *(answered(100, "CANCELLED"), answered(140, _DEADLINE)),
            # There is no time for a read.
            *(degraded("features_missing"), reads(9, "timeout"), reads(20, "ok")),
        ),
    ),
    "9: callers wait for 5 ms, and slates are nearly as quick": (
        "short-deadlines",
        beside(answered(10, _DEADLINE), answered(110, "OK"), skipped(60)),
    ),
    "10: watchers beyond the limit": (
        "hostile-callers",
        also(_HELD_OPEN, gateway(answered(200, "CANCELLED"))),
    ),
    "10: callers hold calls open, mostly of one gateway": (
        "hostile-callers",
        with_hosts(_HELD_OPEN, "gateway-1", calls=8, latency=0.3, occupied=1.0),
    ),
    "10: silent calls": ("hostile-callers", edge(open_requests=900, requests=500)),
    "11: the log is dead": ("log-down", also(part("log", "refused", facts=killed("log")), BEHIND)),
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
    "17: Redis hangs": (
        "store-down",
        also(
            part("store", "silent"),
            gateway(degraded("features_stale", 150), vireo_feature_store_circuit_open=1),
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
        also(with_pods("ranking-2", release="r0"), gateway(degraded("mixed_releases", 40))),
    ),
    "a pod isn't admitted": (
        "pod-refused",
        also(
            with_pods("ranking-2", problem="doesn't serve", fault="failed", loading="building r2"),
            control(counted("vireo_endpoints", 0, cluster="ranking", state="unadmitted")),
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
        replace(part("edge", "failed"), certificates=(Certificate("edge.crt", -60.0),)),
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
        beside(shed(40, "limit"), answered(40, _EXHAUSTED), answered(60, "OK")),
    ),
    "a share of events is refused": (
        "calls-refused",
        beside(answered(50, _EXHAUSTED, _EVENTS), answered(150, "OK")),
    ),
    "runs of a model are refused": (
        "calls-refused",
        beside(answered(30, _EXHAUSTED, _INFER), answered(20, "OK", _INFER)),
    ),
    "few calls, of which many are refused": (
        "calls-refused",
        replace(
            HEALTHY,
            pages=(
                replace(
                    gateway(answered(3, _EXHAUSTED, _EVENTS), answered(20, "OK")).pages[0],
                    seconds=30.0,
                ),
                *HEALTHY.pages[1:],
            ),
        ),
    ),
    "hardly any memory": ("memory-short", replace(HEALTHY, machines=(Machine(0.6, 0.01),))),
    "a site's clock is off": (
        "callers-clock-off",
        beside(counted("vireo_events_refused_total", 30, reason="future")),
    ),
    "the log fills up": (
        "log-filling",
        beside(counted("vireo_log_used_ratio", 0.81, stream="events")),
    ),
    "dead letters fill their stream": (
        "log-filling",
        beside(counted("vireo_log_used_ratio", 0.81, stream="dead")),
    ),
    "a caller has its share of the log": (
        "log-filling",
        beside(counted("vireo_events_refused_total", 30, reason="full")),
    ),
    "slates are dropped": (
        "slates-not-recorded",
        beside(counted("vireo_slates_dropped_total", 30, reason="full")),
    ),
    "the archive is behind": (
        "slates-not-recorded",
        also(HEALTHY, consumer(counted("vireo_archive_lag_seconds", 7200, kind="slates"))),
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
            control(
                counted("vireo_discovery_failures_total", 4, source="file"),
                counted("vireo_discovery_success_age_seconds", 4, source="file"),
            ),
        ),
    ),
    "reads of features time out": (
        "no-features",
        beside(degraded("features_missing"), reads(90, "timeout")),
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


@pytest.mark.parametrize(
    ("case", "follows"),
    [
        (
            "12: the log's disk is full",
            {
                "log-disk-full": "",
                "log-down": "log-disk-full",
                "features-behind": "log-disk-full",
            },
        ),
        (
            "10: callers hold calls open, mostly of one gateway",
            {"hostile-callers": "", "pod-slow": "hostile-callers"},
        ),
        (
            "18: eight callers are refused although hardly anything else happens",
            {"overload": "", "calls-refused": "overload"},
        ),
    ],
)
def test_what_follows_from_a_cause_says_so_and_comes_after_it(
    case: str, follows: dict[str, str]
) -> None:
    _, facts = CASES[case]
    assert {each.cause: each.follows_from for each in diagnose(facts)} == follows


def test_slow_callers_of_an_overloaded_stack_are_not_blamed() -> None:
    _, overload = CASES["7: four times the sustainable load"]
    facts = also(overload, gateway(answered(300, _DEADLINE), skipped(700)))
    causes = [each.cause for each in diagnose(facts)]
    assert causes[0] == "overload"
    assert "short-deadlines" not in causes


@pytest.mark.parametrize(("refused", "found"), [(10, []), (11, ["calls-refused"])])
def test_a_share_of_refused_calls_above_a_twentieth_is_a_finding(
    refused: int, found: list[str]
) -> None:
    facts = gateway(
        answered(refused, _EXHAUSTED, _EVENTS),
        answered(200 - refused, "OK"),
        # Inner calls count for nobody's share.
        answered(5000, "OK", "/vireo.v1.RankingService/RankCandidates"),
    )
    assert [each.cause for each in diagnose(facts)] == found


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
