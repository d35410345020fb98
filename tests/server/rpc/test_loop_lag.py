import asyncio
import threading

from vireo.server.rpc import loop_lag


async def test_a_loop_that_is_free_answers_soon() -> None:
    assert 0 < await asyncio.to_thread(loop_lag.lag, asyncio.get_running_loop()) < loop_lag.MAX_LAG


async def test_a_scrape_does_not_wait_for_a_blocked_loop() -> None:
    told: list[float] = []
    asking = threading.Thread(
        target=lambda loop: told.append(loop_lag.lag(loop)), args=(asyncio.get_running_loop(),)
    )
    asking.start()
    asking.join()  # blocks the loop
    assert told == [loop_lag.MAX_LAG]


async def test_a_loop_that_asks_for_its_own_lag_is_not_late() -> None:
    assert loop_lag.lag(asyncio.get_running_loop()) == 0


def test_a_closed_loop_has_no_lag() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    assert loop_lag.lag(loop) == 0
