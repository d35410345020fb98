"""Which calls are taken on, by how long they wait."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from tests.builders.busy import busy
from tests.builders.clock import Clock
from tests.builders.rpc import rpc_settings
from vireo.server.pod.admission import INTERVAL, MIN_CALLS_AHEAD, Admission, waited_seconds
from vireo.server.pod.pod import LoadCollector
from vireo.server.pod.run_queue import RunQueue
from vireo.server.rpc.errors import ShedError, ShedReason
from vireo.server.rpc.server import RpcServer

TARGET = 0.01


def refusal(admission: Admission, waited: float = 0.0, left: float = 10.0) -> ShedReason | None:
    """Why a call is shed that came in `waited` seconds ago and has `left`; None if it isn't."""
    timeout = f"{round((left + waited) * 1e6)}u"
    try:
        admission.check((("x-vireo-timeout", timeout),), left)
    except ShedError as error:
        return error.reason
    return None


def refusals(admission: Admission, clock: Clock, waited: float, apart: float) -> Iterator[object]:
    """What becomes of calls that come `apart` seconds and have all waited as long."""
    while True:
        clock.now += apart
        yield refusal(admission, waited)


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


def test_a_burst_is_taken_on_and_a_queue_that_stays_is_shed_until_it_has_gone(
    clock: Clock,
) -> None:
    admission = Admission(500, target=TARGET, clock=clock)
    late = refusals(admission, clock, waited=3 * TARGET, apart=0.002)
    burst = [next(late) for _ in range(int(INTERVAL / 0.002))]
    assert burst == [None] * len(burst)
    assert [next(late) for _ in range(5)][-1] is ShedReason.QUEUE
    standing = [admission.standing]
    prompt = refusals(admission, clock, waited=0.0, apart=0.002)
    assert [next(prompt) for _ in range(60)] == [None] * 60
    assert [*standing, admission.standing] == [True, False]
    assert next(late) is None


def test_a_call_among_few_is_taken_on_however_long_it_waited(clock: Clock) -> None:
    # Something else has the processor: to shed some would help nobody.
    admission = Admission(500, target=TARGET, clock=clock)
    waited = 0.3
    late = refusals(admission, clock, waited, apart=waited / (MIN_CALLS_AHEAD - 1))
    assert {next(late) for _ in range(100)} == {None}


def test_even_a_burst_waits_no_longer_than_an_interval(clock: Clock) -> None:
    admission = Admission(500, target=TARGET, clock=clock)
    late = refusals(admission, clock, waited=1.5 * INTERVAL, apart=0.001)
    assert [next(late) for _ in range(MIN_CALLS_AHEAD + 1)][-1] is ShedReason.QUEUE


def test_a_queue_is_gone_when_nobody_has_come_for_a_while(clock: Clock) -> None:
    admission = Admission(500, target=TARGET, clock=clock)
    refusal(admission, waited=2 * TARGET)
    clock.now += 3600
    refusal(admission, waited=2 * TARGET)
    assert not admission.standing


async def test_calls_that_would_wait_past_their_deadline_are_shed_at_once() -> None:
    queue = RunQueue()
    admission = Admission(500, queue=queue, target=math.inf)
    async with busy(queue):
        queue._ran(1000.0)
        assert refusal(admission, left=5.0) is ShedReason.DEADLINE
        admission.check((), None)  # without one it waits


async def test_calls_that_would_wait_long_for_their_run_are_shed() -> None:
    queue = RunQueue()
    admission = Admission(500, queue=queue, target=TARGET)
    async with busy(queue):
        queue._ran(0.1)
        queue.queued += MIN_CALLS_AHEAD
        assert refusal(admission) is ShedReason.QUEUE
        queue.queued -= MIN_CALLS_AHEAD


async def test_calls_beyond_the_number_are_shed_and_each_is_counted_once(clock: Clock) -> None:
    admission = Admission(2, clock=clock)
    entered = [await admission.enter(), await admission.enter()]
    assert refusal(admission) is ShedReason.LIMIT
    with pytest.raises(ShedError):
        await admission.enter()
    for each in entered:
        admission.leave(each)
    assert admission.under_way == 0
    assert refusal(admission) is None


@pytest.mark.parametrize(
    ("timeout", "left", "waited"),
    [
        ("2S", 1.5, 0.5),
        ("1500m", 1.4, 0.1),
        ("250000u", 0.05, 0.2),
        ("1M", 59, 1),
        ("1S", 1.2, 0),
        ("1S", None, 0),
        ("", 1, 0),
        ("S", 1, 0),
        ("-", 1, 0),
        ("12", 1, 0),
        ("-1S", 1, 0),
        ("1x", 1, 0),
        ("123456789S", 1, 0),
    ],
)
def test_the_wait_is_the_timeout_less_the_remaining_time(
    timeout: str, left: float | None, waited: float
) -> None:
    metadata = (("x-request-id", "1S"), ("x-vireo-timeout", timeout))
    assert waited_seconds(metadata, left) == pytest.approx(waited)
    assert waited_seconds((), left) == 0


async def test_gauges_show_the_load(clock: Clock) -> None:
    queue = RunQueue()
    admission = Admission(7, queue=queue, clock=clock)
    async with busy(queue):
        queue._ran(0.05)
        refusal(admission, waited=0.25)
        for _ in range(3):
            clock.now += 0.06
            refusal(admission, waited=0.25)
        registry = CollectorRegistry()
        registry.register(LoadCollector(admission, queue, RpcServer(rpc_settings())))
        shown = {
            sample.name: sample.value for family in registry.collect() for sample in family.samples
        }
    assert shown.pop("vireo_queue_wait_seconds") >= 0.25
    assert shown == {
        "vireo_rpcs_in_flight": 0,
        "vireo_streams_open": 0,
        "vireo_concurrency_limit": 7,
        "vireo_rpcs_queued": 0,
        "vireo_queue_standing": 1,
        "vireo_work_queued": 1,
        "vireo_work_mean_seconds": pytest.approx(0.05),
    }
