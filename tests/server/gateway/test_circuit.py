"""When calls are kept from a store that fails."""

from __future__ import annotations

from tests.builders.clock import Clock
from vireo.server.gateway.stages.read_features import PAUSE_SECONDS, Circuit


def opened(clock: Clock) -> Circuit:
    circuit = Circuit(clock)
    for _ in range(3):
        assert circuit.admits()
        circuit.failed()
    return circuit


def test_a_failure_or_two_keep_no_call_away() -> None:
    circuit = Circuit(Clock(100.0))
    for _ in range(5):
        circuit.failed()
        circuit.failed()
        assert circuit.admits()
        circuit.succeeded()
    assert not circuit.open


def test_the_third_failure_in_a_row_keeps_all_calls_away() -> None:
    circuit = opened(Clock(100.0))
    assert circuit.open
    assert not any(circuit.admits() for _ in range(100))


def test_after_a_pause_one_call_is_let_through() -> None:
    clock = Clock(100.0)
    circuit = opened(clock)
    clock.now += PAUSE_SECONDS
    assert [circuit.admits() for _ in range(100)] == [True] + [False] * 99
    circuit.failed()
    clock.now += PAUSE_SECONDS / 2
    assert not circuit.admits()
    clock.now += PAUSE_SECONDS / 2
    assert circuit.admits()


def test_a_call_that_never_says_how_it_went_blocks_no_later_try() -> None:
    clock = Clock(100.0)
    circuit = opened(clock)
    clock.now += PAUSE_SECONDS
    assert circuit.admits()  # its caller hangs up
    clock.now += PAUSE_SECONDS
    assert circuit.admits()


def test_one_success_closes_the_circuit() -> None:
    clock = Clock(100.0)
    circuit = opened(clock)
    clock.now += PAUSE_SECONDS
    assert circuit.admits()
    circuit.succeeded()
    assert not circuit.open
    assert all(circuit.admits() for _ in range(100))
