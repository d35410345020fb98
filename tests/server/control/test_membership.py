"""Published pods of a pool over time."""

from __future__ import annotations

import pytest

from tests.builders.control import local
from vireo.server.control.admission import Membership
from vireo.server.control.mesh import Members

NOBODY = Members()


def serving(*ports: int, trusting: bool = True) -> Membership:
    """A pool whose pods have all been seen healthy."""
    pool = Membership(drain_seconds=3, empty_seconds=30, trusting=trusting)
    pool.found(local(*ports), 0)
    for endpoint in local(*ports):
        pool.admit(endpoint)
    return pool


def test_a_pod_is_admitted_when_it_is_healthy() -> None:
    pool = serving(1)
    pool.found(local(1, 2), 1)
    assert pool.members(1) == Members(local(1))
    [waiting] = pool.waiting
    pool.admit(waiting)
    assert pool.members(2) == Members(local(1, 2))


@pytest.mark.parametrize("trusting", [True, False])
def test_without_a_healthy_pod_only_a_trusting_pool_publishes_all(*, trusting: bool) -> None:
    pool = Membership(drain_seconds=3, empty_seconds=30, trusting=trusting)
    pool.found(local(1, 2), 0)
    assert pool.members(0).active == (local(1, 2) if trusting else local())


def test_a_pod_that_is_gone_drains_and_is_then_left_out() -> None:
    pool = serving(1, 2)
    pool.found(local(1), 10)
    assert pool.members(10) == Members(local(1), local(2))
    assert pool.members(12.9) == Members(local(1), local(2))
    assert pool.members(13) == Members(local(1))


def test_a_pod_that_returns_while_draining_is_kept() -> None:
    pool = serving(1, 2)
    pool.found(local(1), 10)
    pool.members(10)
    pool.found(local(1, 2), 11)
    assert pool.members(11) == Members(local(1, 2))
    assert pool.members(20) == Members(local(1, 2))


def test_pods_that_are_all_replaced_serve_until_a_new_one_is_healthy() -> None:
    pool = serving(1, 2)
    pool.found(local(3), 10)
    assert pool.members(100) == Members(local(1, 2))
    [fresh] = local(3)
    pool.admit(fresh)
    assert pool.members(101) == Members(local(3), local(1, 2))
    assert pool.members(104) == Members(local(3))


def test_an_empty_result_removes_no_pod_before_the_grace_period() -> None:
    pool = serving(1, 2)
    pool.found(local(), 10)
    assert pool.members(39.9) == Members(local(1, 2))
    assert pool.members(40) == NOBODY


def test_an_empty_result_that_ends_in_time_is_forgotten() -> None:
    pool = serving(1)
    pool.found(local(), 10)
    pool.found(local(1), 20)
    pool.found(local(), 39)
    assert pool.members(60) == Members(local(1))
    assert pool.members(69) == NOBODY


def test_a_pool_that_never_had_pods_has_none() -> None:
    pool = Membership(drain_seconds=3, empty_seconds=30, trusting=True)
    pool.found(local(), 0)
    assert pool.members(0) == NOBODY


def test_a_pool_is_settled_unless_a_pod_waits_drains_or_all_are_gone() -> None:
    pool = serving(1, 2)
    assert pool.is_settled()
    pool.found(local(1, 2, 3), 1)
    assert not pool.is_settled(), "a pod waits"
    pool.found(local(1), 2)
    pool.members(2)
    assert not pool.is_settled(), "a pod drains"
    pool.members(6)
    assert pool.is_settled()
    pool.found(local(), 7)
    assert not pool.is_settled(), "all are gone"
    pool.members(40)
    assert pool.is_settled()
