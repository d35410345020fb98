from vireo.server.releases.retries import Retries


def test_retries_are_frequent_while_nothing_is_served() -> None:
    retries = Retries(0.5)
    assert [retries.unserved_failed() for _ in range(6)] == [0.25, 0.5, 1, 2, 3, 3]
    assert [Retries(0.5).unserved_failed() for _ in range(2)] == [0.25, 0.25]


def test_looks_at_a_channel_that_cannot_be_read_become_rarer_up_to_five_seconds() -> None:
    retries = Retries(0.5)
    assert [retries.look_failed() for _ in range(6)] == [0.5, 1, 2, 4, 5, 5]
    retries.succeeded()
    assert retries.look_failed() == 0.5
    assert Retries(60).look_failed() == 60, "no more often than all is well"


def test_release_that_fails_is_put_off_and_no_other() -> None:
    retries = Retries(20)
    assert retries.load_failed("bad") == 20
    assert retries.is_put_off("bad")
    assert not retries.is_put_off("good")
    retries.succeeded()
    assert not retries.is_put_off("bad")


def test_another_release_begins_with_short_delays_again() -> None:
    retries = Retries(0.5)
    for _ in range(5):
        retries.load_failed("bad")
    assert retries.failures == 5
    retries.load_failed("worse")
    assert retries.failures == 1
