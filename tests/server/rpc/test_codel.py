import pytest

from server.rpc.codel import Codel


def observed(waits: list[tuple[float, float]]) -> Codel:
    """A queue of which one was told (now, waited), in milliseconds."""
    queue = Codel(target=0.005, interval=0.1)
    for now, waited in waits:
        queue.observe(now / 1000, waited / 1000)
    return queue


@pytest.mark.parametrize(
    ("waits", "standing"),
    [
        ([], False),
        ([(0, 500)], False),
        ([(0, 500), (99, 400)], False),
        ([(0, 6), (50, 6), (100, 6)], True),
        ([(0, 6), (50, 5), (100, 6), (150, 6)], False),
        ([(0, 6), (100, 6), (101, 1)], True),
        ([(0, 6), (100, 6), (101, 1), (200, 1)], True),
        ([(0, 6), (100, 6), (101, 1), (201, 1)], False),
        ([(0, 6), (100, 6), (101, 1), (150, 6), (160, 1), (201, 1)], True),
    ],
    ids=[
        "new",
        "one_late_call",
        "a_burst",
        "every_wait_for_an_interval",
        "one_short_wait_within",
        "a_short_wait_after",
        "short_waits_for_less_than_an_interval",
        "short_waits_for_an_interval",
        "a_long_wait_among_the_short",
    ],
)
def test_a_queue_stands_while_waits_are_long_and_until_they_have_been_short_for_an_interval(
    waits: list[tuple[float, float]], standing: bool
) -> None:
    assert observed(waits).standing is standing


def test_calls_may_wait_for_an_interval_and_for_two_targets_once_the_queue_stands() -> None:
    assert observed([]).longest_wait == 0.1
    assert observed([(0, 6), (100, 6)]).longest_wait == 0.01


def test_a_target_above_the_interval_stretches_both() -> None:
    assert Codel(target=0.2, interval=0.1).longest_wait == 0.4
