"""The run queue: whose pipeline runs, when, and what else the event loop does meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial

import grpc
import pytest
from structlog.contextvars import bound_contextvars, get_contextvars

from tests.builders.busy import busy
from tests.builders.waiting import until
from tests.builders.work_counts import WorkCounts
from vireo.server.pod.run_queue import RunQueue
from vireo.server.recommend.runner import Caller, CallerGoneError
from vireo.server.rpc.errors import RpcError


def started(queue: RunQueue, work: Callable[[], object]) -> asyncio.Task[object]:
    return asyncio.create_task(queue.run(work, Caller()))


async def test_pipelines_run_in_order_of_arrival() -> None:
    queue, ran = RunQueue(), list[int]()
    await asyncio.gather(*(started(queue, partial(ran.append, number)) for number in range(5)))
    assert ran == [0, 1, 2, 3, 4]
    await until(lambda: queue.queued == 0)


async def test_an_idle_queue_runs_a_pipeline_at_once_in_the_loops_own_thread() -> None:
    queue = RunQueue()
    coroutine = queue.run(threading.get_ident, Caller())
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)  # it ends without a wait
    assert ended.value.value == threading.get_ident()


async def test_the_event_loop_does_something_else_between_two_pipelines() -> None:
    queue, loop = RunQueue(), asyncio.get_running_loop()
    iterations, ran_in = 0, list[int]()

    def count() -> None:
        nonlocal iterations
        iterations += 1
        loop.call_soon(count)

    loop.call_soon(count)
    await asyncio.gather(*(started(queue, lambda: ran_in.append(iterations)) for _ in range(500)))
    assert len(set(ran_in)) == 500


async def test_a_failure_is_the_callers_and_leaves_the_queue_fit() -> None:
    queue = RunQueue()
    async with asyncio.timeout(30):
        for run in (queue.run, queue.run_in_thread):
            with pytest.raises(ZeroDivisionError):
                await run(lambda: 1 // 0, Caller())
            assert await run(lambda: "fit", Caller()) == "fit"
        with pytest.raises(RuntimeError, match="StopIteration"):  # which no future accepts
            await queue.run_in_thread(lambda: next(iter(())), Caller())
        assert await queue.run(lambda: "fit", Caller()) == "fit"


async def test_a_pipeline_whose_call_is_cancelled_while_it_waits_is_never_begun() -> None:
    queue, ran, counts = RunQueue(), list[str](), WorkCounts()
    async with busy(queue):
        given_up = started(queue, lambda: ran.append("given up"))
        kept = started(queue, lambda: ran.append("kept"))
        await until(lambda: queue.queued == 3)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        assert queue.queued == 2
    await kept
    assert ran == ["kept"]
    assert counts.since == (2, 1, 0)


async def test_a_call_that_is_cancelled_as_its_turn_comes_gives_it_to_the_next() -> None:
    queue, ran = RunQueue(), list[str]()

    def run_and_cancel() -> None:
        # After the queue has given the turn away, and before the call whose turn it is goes on.
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: loop.call_soon(given_up.cancel))

    first = started(queue, run_and_cancel)
    given_up = started(queue, lambda: ran.append("given up"))
    last = started(queue, lambda: ran.append("last"))
    async with asyncio.timeout(30):
        await asyncio.gather(first, last)
    assert given_up.cancelled()
    assert ran == ["last"]
    await until(lambda: queue.queued == 0)


async def test_a_pipeline_isnt_begun_past_its_callers_deadline_and_may_end_at_it() -> None:
    queue, ran, counts = RunQueue(), list[str](), WorkCounts()

    def gone() -> None:
        raise CallerGoneError("the caller has gone")

    async with busy(queue):
        caller = Caller(left=1.0)  # time enough to join those that wait
        late = asyncio.create_task(queue.run(lambda: ran.append("late"), caller))
        await until(lambda: queue.queued == 2)
        await until(lambda: caller.gone)
    stopped = queue.run(gone, Caller())
    for call in (late, stopped):
        with pytest.raises(RpcError) as raised:
            await call
        assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert ran == []
    assert counts.since == (1, 1, 1)


async def test_long_work_keeps_its_turn_until_it_has_run_even_if_its_call_is_cancelled() -> None:
    queue, begun, released = RunQueue(), threading.Event(), threading.Event()
    ran = list[str]()

    def work() -> None:
        begun.set()
        released.wait()
        ran.append("long")

    call = asyncio.create_task(queue.run_in_thread(work, Caller()))
    await until(begun.is_set)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    next_call = started(queue, lambda: ran.append("next"))
    await until(lambda: queue.queued == 2)
    assert ran == []
    released.set()
    await next_call
    assert ran == ["long", "next"]


async def test_work_logs_the_request_id_of_its_call_wherever_it_runs() -> None:
    queue = RunQueue()

    async def call(identity: str) -> list[str]:
        with bound_contextvars(request_id=identity):
            return [
                await run(lambda: get_contextvars()["request_id"], Caller())
                for run in (queue.run, queue.run_in_thread)
            ]

    async with busy(queue):
        calls = [asyncio.create_task(call(identity)) for identity in ("a", "b")]
        await until(lambda: queue.queued == 3)
    assert await asyncio.gather(*calls) == [["a", "a"], ["b", "b"]]
