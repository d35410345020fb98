"""How the limit of calls follows from how long they take."""

from __future__ import annotations

import pytest

from server.rpc.concurrency_limit import INTERVAL, MIN_LIMIT, REST, ConcurrencyLimit

QUICK = 0.01


class Server:
    """Simulated intervals of a server whose calls each take so long by themselves."""

    def __init__(self, max_calls: int = 500) -> None:
        self.limit = ConcurrencyLimit(max_calls)
        self.now = 0.0

    def interval(self, under_way: int, *took: float) -> None:
        """`under_way` calls are there at the most, and those end that took so long."""
        for number in range(under_way):
            self.limit.admits(number)
        self.now += 2 * INTERVAL
        for each in took:
            self.limit.ended(self.now, each)

    def flood(self, capacity: int = 2) -> None:
        """As many calls as are let in and some more; beyond `capacity` they slow each other."""
        admitted = int(self.limit.calls)
        took = QUICK * max(1.0, admitted / capacity)
        self.interval(admitted + 1, took, took, took)


@pytest.fixture
def server() -> Server:
    server = Server()
    for _ in range(50):
        server.interval(1, QUICK, QUICK, QUICK)
    assert server.limit.calls == REST
    return server


def test_in_a_flood_the_limit_falls_to_where_calls_are_quick_again(server: Server) -> None:
    for _ in range(5):
        server.flood()
    assert server.limit.calls <= MIN_LIMIT + 1
    for _ in range(1000):
        server.flood()
        assert server.limit.calls <= 2 * MIN_LIMIT


def test_after_a_flood_the_limit_returns_to_rest(server: Server) -> None:
    for _ in range(100):
        server.flood()
    for _ in range(100):
        server.interval(1, QUICK, QUICK, QUICK)
    assert server.limit.calls == pytest.approx(REST, rel=0.05)


def test_where_more_calls_stay_quick_the_limit_grows_before_it_is_reached(server: Server) -> None:
    for _ in range(20):
        server.interval(int(server.limit.calls) - 1, QUICK, QUICK, QUICK)
    assert server.limit.calls > 5 * REST


def test_calls_that_hang_shrink_nothing_while_others_are_quick(server: Server) -> None:
    for _ in range(100):
        server.interval(REST + 5, 20 * QUICK, 20 * QUICK, QUICK)
    assert server.limit.calls >= REST


def test_a_busy_machine_makes_nobody_be_refused_while_calls_are_few(server: Server) -> None:
    for _ in range(1000):
        server.interval(REST // 2, 10 * QUICK, 10 * QUICK, 10 * QUICK)
    assert server.limit.calls == pytest.approx(REST)


def test_calls_that_have_become_slow_by_themselves_count_as_usual_after_a_while(
    server: Server,
) -> None:
    slower = 10 * QUICK
    for _ in range(500):
        server.interval(int(server.limit.calls) + 1, slower, slower, slower)
    assert server.limit.calls > REST


def test_the_limit_stays_within_the_most_calls() -> None:
    server = Server(max_calls=3)
    for _ in range(20):
        server.interval(3, QUICK, QUICK, QUICK)
    assert server.limit.calls == 3
    assert not server.limit.admits(3)
