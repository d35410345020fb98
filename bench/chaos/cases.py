"""The cases: what is done to a stack, what must hold meanwhile and after, and what alerts."""

from __future__ import annotations

import math

from bench.chaos import faults, measured, overload
from bench.chaos.case import Case, Fault

_UNREAD = frozenset({"features_missing", "features_stale"})
_BEHIND = frozenset({"features_behind"})

CASES = {
    1: Case(
        "kill -9 of one pod of two, each kind, repeatedly",
        (
            Fault(
                "pods are killed",
                faults.killed_in_turn(lambda chain: chain.plan.killed_pods),
                lasts=lambda plan: plan.killed_requests / plan.rate,
                alert="VireoPodCrashes",
                cause="pod-dies",
                order=19,
                needs_peace=True,
            ),
        ),
    ),
    2: Case(
        "rolling restart of every pod by SIGTERM",
        (
            Fault(
                "a rolling restart",
                faults.rolling_restart,
                lasts=lambda plan: plan.settle,
                alert="",
                cause="restarted",
                order=1,
            ),
        ),
    ),
    3: Case(
        "a pod that hangs (SIGSTOP)",
        (Fault("a pod hangs", faults.hanging, alert="VireoPodHangs", cause="pod-hangs", order=3),),
        measured.hanging_pods,
    ),
    4: Case(
        "pods that answer UNAVAILABLE, slowly, or garbage",
        (
            Fault(
                "a pod answers UNAVAILABLE",
                faults.faulty("unavailable"),
                lasts=lambda plan: plan.faulty,
                alert="VireoRetries",
                cause="pod-errors",
                order=4,
            ),
            Fault(
                "a pod is 50 times slower",
                faults.faulty("slow"),
                lasts=lambda plan: plan.faulty,
                alert="VireoRetries",
                cause="pod-slow",
                order=7,
            ),
            Fault(
                "a pod answers NaN",
                faults.faulty("nan"),
                lasts=lambda plan: plan.faulty,
                alert="VireoInvalidResponses",
                cause="invalid-responses",
                order=8,
            ),
        ),
    ),
    5: Case(
        "all ranking pods dead, all candidate pods dead, no feature store",
        (
            Fault(
                "no ranking pods",
                faults.all_dead("ranking"),
                lasts=lambda plan: plan.outage,
                declares=frozenset({"ranking_skipped"}),
                full_within=5.0,
                alert="VireoNoRanking",
                cause="no-ranking",
                order=16,
            ),
            Fault(
                "no candidate pods",
                faults.all_dead("candidate"),
                lasts=lambda plan: plan.outage,
                declares=frozenset({"popular_fallback"}),
                full_within=5.0,
                alert="VireoNoCandidates",
                cause="no-candidate",
                order=17,
            ),
            Fault(
                "no feature store",
                faults.without_tables,
                lasts=lambda plan: plan.outage,
                declares=_UNREAD,
                full_within=5.0,
                alert="VireoNoFeatures",
                cause="no-features",
                order=13,
            ),
        ),
    ),
    6: Case(
        "no control plane while pods come and go; one that Envoy rejects",
        (
            Fault(
                "no control plane while pods come and go",
                faults.pods_change_without_control_plane,
                lasts=lambda plan: plan.control_outage,
            ),
            Fault(
                "no control plane",
                faults.held_down("control"),
                alert="VireoControlPlaneDown",
                cause="control-down",
                order=15,
            ),
            Fault(
                "Envoy refuses routes",
                faults.rejected_routes,
                lasts=lambda plan: plan.settle,
                alert="VireoEnvoyRefusesConfiguration",
                cause="configuration-refused",
                order=14,
            ),
        ),
    ),
    7: Case(
        "four times the sustainable load",
        (
            Fault(
                "four times the sustainable load",
                overload.flooded,
                alert="VireoShedding",
                cause="overload",
                order=5,
            ),
        ),
        overload.flood,
    ),
    8: Case(
        "a host cut off: packets dropped, not refused",
        (
            Fault(
                "a host is cut off",
                faults.host_cut_off,
                lasts=lambda plan: plan.cut,
                alert="VireoEndpointsMissing",
                cause="pod-unreachable",
                order=9,
            ),
        ),
    ),
    9: Case(
        "callers with a deadline of 5 ms",
        (
            Fault(
                "callers with a deadline of 5 ms",
                faults.short_deadlines,
                alert="VireoShortDeadlines",
                cause="short-deadlines",
                order=2,
            ),
        ),
        overload.short_deadlines,
    ),
    10: Case(
        "thousands of watchers, silent calls and abandoned calls",
        (
            Fault(
                "hostile callers",
                overload.attacked,
                alert="VireoHostileCallers",
                cause="hostile-callers",
                order=10,
            ),
        ),
        overload.hostile_callers,
    ),
    11: Case(
        "kill -9 of the log while events come in; no log for a minute",
        (
            Fault(
                "the log is killed",
                faults.killed_log,
                lasts=lambda plan: plan.settle,
                times=lambda plan: plan.log_kills,
                recorded_within=math.inf,
            ),
            Fault(
                "no log",
                faults.held_down("log"),
                lasts=lambda plan: plan.log_outage,
                declares=_BEHIND,
                declared_after=20.0,
                full_within=math.inf,
                refuses=True,
                recorded_within=15.0,  # the supervisor waits up to 10 s before a start
                alert="VireoLogDown",
                cause="log-down",
                order=18,
            ),
        ),
        events="refused",
    ),
    12: Case(
        "the log's disk is full",
        (
            Fault(
                "the log's disk is full",
                faults.full_log_disk,
                lasts=lambda plan: plan.outage,
                full_within=math.inf,
                refuses=True,
                # Until the supervisor restarts the server, 10 s after it has noticed.
                recorded_within=30.0,
                alert="VireoLogDiskFull",
                cause="log-disk-full",
                order=11,
            ),
        ),
        events="refused",
    ),
    13: Case(
        "kill -9 of the consumer, repeatedly; a second one by mistake",
        (
            Fault(
                "the consumer is killed",
                faults.killed_consumer,
                alert="VireoConsumerDown",
                cause="consumer-down",
                order=20,
                needs_peace=True,
            ),
        ),
        measured.killed_consumers,
    ),
    14: Case(
        "a consumer that is far behind",
        (
            Fault(
                "many events without a consumer",
                measured.far_behind,
                alert="VireoConsumerBehind",
                cause="consumer-down",
                order=22,
                needs_peace=True,
            ),
        ),
        measured.catching_up,
    ),
    15: Case(
        "the online store in SQLite is locked by another writer",
        (
            Fault(
                "SQLite is locked",
                faults.locked_store,
                lasts=lambda plan: 2 * plan.store_outage,
                declares=_BEHIND,
                # Gateways wait for 10 s, and hear each second how far the consumer is.
                declared_after=13.0,
                full_within=15.0,
                stops_rows=True,
                # The consumer waits up to 5 s for the lock, then up to 5 s before it tries again.
                applied_within=15.0,
                alert="VireoOnlineStoreLocked",
                cause="store-locked",
                order=12,
            ),
        ),
        events="kept",
    ),
    16: Case(
        "kill -9 of gateways while they record events",
        (
            Fault(
                "gateways are killed",
                faults.killed_in_turn(lambda chain: chain.plan.killed_gateways),
                lasts=lambda plan: plan.settle,
                alert="VireoPodCrashes",
                cause="pod-dies",
                order=21,
            ),
        ),
        events="taken",
    ),
    17: Case(
        "Redis hangs, then is killed and loses what came",
        tuple(
            Fault(
                title,
                begin,
                lasts=lambda plan: plan.store_outage,
                declares=_UNREAD,
                # The lease of the consumer that Redis forgot, or that could not give it back, may
                # have to end.
                full_within=20.0,
                applied_within=20.0,
                idle=idle,
                alert=alert,
                cause="store-down",
                order=order,
            )
            for title, begin, idle, alert, order in (
                ("Redis hangs", faults.hanging_redis, False, "VireoOnlineStoreDown", 23),
                ("Redis is killed", faults.killed_redis, False, "VireoOnlineStoreDown", 24),
                ("Redis is killed when idle", faults.killed_redis, True, None, 0),
            )
        ),
        events="kept",
        on_redis=True,
    ),
    18: Case(
        "overloads that end, quiet and beside a busy core",
        (
            Fault(
                "callers who repeat at once",
                faults.crowd,
                alert="VireoShedding",
                cause="overload",
                order=6,
            ),
        ),
        overload.overloads_end,
    ),
}
"""By number."""
