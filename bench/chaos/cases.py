"""The cases: what is done to a stack, what must hold meanwhile and after, and what alerts."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.console import Console

from bench.chaos import faults, measured, overload
from bench.chaos.case import Case, Fault, run_case
from bench.chaos.chain import Chain, running_chain
from bench.chaos.findings import UNREAD, CaseResult, ChaosPlan
from bench.chaos.places import CannotRunError
from vireo.server.errors import VireoError
from vireo.server.home import Home

_SHARE, _MIN_RATE = 0.4, 5.0
"""Share of the sustainable rate that the steady load has at most, and its minimum a second."""

_BEHIND = frozenset({"features_behind"})

# Pods.
_KILLED_PODS = Fault(
    "pods are killed",
    faults.killed_in_turn,
    lasts=(250.0, 4.0),
)
_RESTARTED = Fault("a rolling restart", faults.rolling_restart, lasts=(2.0, 1.0))
_HANGING = Fault("a pod hangs", faults.hanging)
_UNAVAILABLE, _SLOW, _NAN = (
    # Scores of a slate pod reach callers as they are.
    Fault(title, faults.faulty(fault), lasts=(10.0, 3.0), separate=fault == "nan")
    for title, fault in (
        ("a pod answers UNAVAILABLE", "unavailable"),
        ("a pod is 50 times slower", "slow"),
        ("a pod answers NaN", "nan"),
    )
)
_NO_RANKING, _NO_CANDIDATES, _NO_FEATURES = (
    Fault(
        title,
        begin,
        lasts=(6.0, 2.0),
        declares=frozenset(declares),
        full_within=5.0,
        separate=begin is not faults.without_tables,
    )
    for title, begin, declares in (
        ("no ranking pods", faults.all_dead("ranking"), {"ranking_skipped"}),
        ("no candidate pods", faults.all_dead("candidate"), {"popular_fallback"}),
        ("no feature store", faults.without_tables, UNREAD),
    )
)
_HOST_CUT_OFF = Fault("a host is cut off", faults.host_cut_off, lasts=(12.0, 6.0), separate=True)

# The control plane.
_PODS_CHANGE = Fault(
    "no control plane while pods come and go",
    faults.pods_change_without_control_plane,
    lasts=(60.0, 4.0),
)
_NO_CONTROL = Fault("no control plane", faults.held_down("control"), lasts=(2.0, 1.0))
_REJECTED = Fault("Envoy refuses routes", faults.rejected_routes, lasts=(2.0, 1.0))

# Too many calls.
_FLOODED = Fault("four times the sustainable load", overload.flooded)
_CROWD = Fault("callers who repeat at once", faults.crowd)
_SHORT_DEADLINES = Fault("callers with a deadline of 5 ms", faults.short_deadlines)
_ATTACKED = Fault("hostile callers", overload.attacked)

# Events.
_LOG_KILLED = Fault(
    "the log is killed",
    faults.killed_log,
    lasts=(2.0, 1.0),
    times=(3, 1),
    recorded_within=math.inf,
)
_NO_LOG = Fault(
    "no log",
    faults.held_down("log"),
    lasts=(60.0, 4.0),
    declares=_BEHIND,
    declared_after=20.0,
    full_within=math.inf,
    refuses=True,
    recorded_within=15.0,  # the supervisor waits up to 10 s before a start
)
_LOG_DISK_FULL = Fault(
    "the log's disk is full",
    faults.full_log_disk,
    lasts=(6.0, 2.0),
    full_within=math.inf,
    refuses=True,
    recorded_within=30.0,  # the supervisor restarts the server 10 s after it has noticed
)
_KILLED_CONSUMER = Fault("the consumer is killed", faults.killed_consumer)
_FAR_BEHIND = Fault("many events without a consumer", measured.far_behind)
_STORE_LOCKED = Fault(
    "SQLite is locked",
    faults.locked_store,
    lasts=(16.0, 4.0),
    declares=_BEHIND,
    declared_after=13.0,  # gateways wait for 10 s, and hear each second how far the consumer is
    full_within=15.0,
    stops_rows=True,
    applied_within=15.0,  # the consumer waits 5 s for the lock, then 5 s before it tries again
)
_REDIS_HANGS = Fault(
    "Redis hangs",
    faults.hanging_redis,
    lasts=(8.0, 2.0),
    declares=UNREAD,
    full_within=20.0,  # the lease of a consumer that Redis forgot may have to end
    applied_within=20.0,
)
_REDIS_KILLED = replace(_REDIS_HANGS, title="Redis is killed", begin=faults.killed_redis)
_REDIS_KILLED_IDLE = replace(_REDIS_KILLED, title="Redis is killed when idle", idle=True)

CASES = {
    1: Case(
        "kill -9 of one pod of two, each kind, repeatedly, while events come in",
        (_KILLED_PODS,),
        events="taken",
    ),
    2: Case("rolling restart of every pod by SIGTERM", (_RESTARTED,)),
    3: Case("a pod that hangs (SIGSTOP)", (_HANGING,), measured.hanging_pods),
    4: Case(
        "pods that answer UNAVAILABLE, slowly, or garbage",
        (_UNAVAILABLE, _SLOW, _NAN),
    ),
    5: Case(
        "all ranking pods dead, all candidate pods dead, no feature store",
        (_NO_RANKING, _NO_CANDIDATES, _NO_FEATURES),
    ),
    6: Case(
        "no control plane while pods come and go; one that Envoy rejects",
        (_PODS_CHANGE, _NO_CONTROL, _REJECTED),
    ),
    7: Case("four times the sustainable load", (_FLOODED,), overload.flood),
    8: Case("a host cut off: packets dropped, not refused", (_HOST_CUT_OFF,)),
    9: Case("callers with a deadline of 5 ms", (_SHORT_DEADLINES,), overload.short_deadlines),
    10: Case(
        "thousands of watchers, silent calls and abandoned calls",
        (_ATTACKED,),
        overload.hostile_callers,
    ),
    11: Case(
        "kill -9 of the log while events come in; no log for a minute",
        (_LOG_KILLED, _NO_LOG),
        events="refused",
    ),
    12: Case("the log's disk is full", (_LOG_DISK_FULL,), events="refused"),
    13: Case(
        "kill -9 of the consumer, repeatedly; a second one by mistake",
        (_KILLED_CONSUMER,),
        measured.killed_consumers,
    ),
    14: Case("a consumer that is far behind", (_FAR_BEHIND,), measured.catching_up),
    15: Case(
        "the online store in SQLite is locked by another writer", (_STORE_LOCKED,), events="kept"
    ),
    17: Case(
        "Redis hangs, then is killed and loses what came",
        (_REDIS_HANGS, _REDIS_KILLED, _REDIS_KILLED_IDLE),
        events="kept",
        on_redis=True,
    ),
    18: Case("overloads that end, quiet and beside a busy core", (_CROWD,), overload.overloads_end),
}
"""By number."""

ALERTING: tuple[Fault, ...] = (
    _RESTARTED,
    _SHORT_DEADLINES,
    _HANGING,
    _UNAVAILABLE,
    _FLOODED,
    _CROWD,
    _SLOW,
    _NAN,
    _HOST_CUT_OFF,
    _ATTACKED,
    _LOG_DISK_FULL,
    _STORE_LOCKED,
    _NO_FEATURES,
    _REJECTED,
    _NO_CONTROL,
    _NO_RANKING,
    _NO_CANDIDATES,
    _NO_LOG,
    _KILLED_PODS,
    _KILLED_CONSUMER,
    _FAR_BEHIND,
    _REDIS_HANGS,
    _REDIS_KILLED,
)
"""In an order in which none hides the next: what processes die of comes last."""

AFTER_DEATHS = frozenset((_KILLED_PODS, _KILLED_CONSUMER, _FAR_BEHIND))
"""Faults that wait until no process has died for a while: doctor would rightly name that first."""


def run_chaos(
    home: Home, dataset: str, numbers: Sequence[int], plan: ChaosPlan, console: Console
) -> Iterator[CaseResult]:
    """Run cases by number on stacks of their own, and yield each one's result when it is there.

    Raises:
        VireoError: the stack can't be set up or started.
    """
    for on_redis in (False, True):
        if chosen := [number for number in numbers if CASES[number].on_redis == on_redis]:
            with running_chain(home, dataset, plan, on_redis=on_redis) as chain:
                rate = _SHARE * asyncio.run(chain.sustainable_rate())
                affordable = replace(plan, rate=max(_MIN_RATE, min(plan.rate, rate)))
                for number in chosen:
                    case = replace(chain.for_case(number, console), plan=affordable)
                    case.findings.progress(CASES[number].title)
                    yield asyncio.run(_run(number, case))


async def _run(number: int, chain: Chain) -> CaseResult:
    case = CASES[number]
    if chain.plan.layout == "together":
        case = replace(case, faults=tuple(each for each in case.faults if not each.separate))
    if not case.faults:
        note = "skipped: it needs separate pods"
        return CaseResult(number, 0, 0, 0, holds=None, note=note)
    try:
        await chain.until_well()
        return await run_case(case, chain)
    except CannotRunError as error:
        return CaseResult(number, 0, 0, 0, holds=None, note=f"skipped: {error}")
    except VireoError as error:
        return CaseResult(number, 0, 0, 0, holds=False, note=str(error))
