"""The worker: whose work is run, whose is not, and what is counted."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import grpc
import pytest

from server.pipeline.caller import Caller
from server.pod.worker import Worker
from server.rpc.errors import RpcError
from tests.builders.busy import busy
from tests.builders.waiting import until
from tests.builders.work_counts import WorkCounts


async def test_work_is_run_in_turn() -> None:
    worker, counts = Worker(), WorkCounts()
    answers = await asyncio.gather(*(worker.run(partial(str, number)) for number in range(5)))
    assert answers == ["0", "1", "2", "3", "4"]
    assert counts.since == (5, 0, 0)
    assert worker.queued == 0


async def test_a_failure_is_the_callers_and_leaves_the_worker_fit() -> None:
    worker = Worker()
    with pytest.raises(ZeroDivisionError):
        await worker.run(partial(divmod, 1, 0))
    assert await worker.run(lambda: "fit") == "fit"
    assert worker.queued == 0


async def test_a_failure_that_no_future_accepts_reaches_its_call() -> None:
    worker = Worker()
    async with asyncio.timeout(30):
        with pytest.raises(RuntimeError, match="StopIteration"):
            await worker.run(lambda: next(iter(())))


async def test_work_whose_call_is_cancelled_while_it_waits_is_never_begun() -> None:
    worker, ran = Worker(), list[str]()
    counts = WorkCounts()
    async with busy(worker):
        given_up = asyncio.create_task(worker.run(lambda: ran.append("given up")))
        await until(lambda: worker.queued == 2)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        assert worker.queued == 1
    await worker.run(lambda: ran.append("last"))
    assert ran == ["last"]
    assert counts.since == (2, 1, 0)


async def test_work_is_not_begun_past_its_callers_deadline() -> None:
    worker, ran, counts = Worker(), list[str](), WorkCounts()
    async with busy(worker):
        caller = Caller(left=1.0)  # time enough to join those that wait
        late = asyncio.create_task(worker.run(lambda: ran.append("late"), caller))
        await until(lambda: worker.queued == 2)
        await until(lambda: caller.gone)
    with pytest.raises(RpcError) as raised:
        await late
    assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert ran == []
    assert counts.since == (1, 1, 0)


async def test_running_work_stops_at_its_next_check_after_cancellation() -> None:
    worker, counts, caller = Worker(), WorkCounts(), Caller()
    begun, left, steps = threading.Event(), threading.Event(), list[str]()

    def work() -> None:
        steps.append("first")
        begun.set()
        left.wait()
        caller.check()
        steps.append("second")

    call = asyncio.create_task(worker.run(work, caller))
    await asyncio.to_thread(begun.wait)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    left.set()
    await worker.run(lambda: steps.append("another call's"))
    assert steps == ["first", "another call's"]
    assert counts.since == (1, 0, 1)
