"""Pods from a simulated API server: deletes, expiry, throttling, and ten thousand of them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import kmock
import pytest
from kmock import KubernetesError

from tests.builders.kubernetes_following import RANKING, Logs, following, reasons
from tests.builders.simulated_kubernetes import (
    READY,
    SLICES,
    STOPPING,
    SimulatedKubernetes,
    simulated_kubernetes,
)
from tests.builders.waiting import until
from vireo.server.control import kubernetes
from vireo.server.control.mesh import Endpoint

pytestmark = pytest.mark.slow

EXPIRED = KubernetesError(
    status=410, reason="Expired", message="too old resource version: 1000 (4711)"
)
THROTTLED = b'{"kind": "Status", "message": "too many requests, please try again later"}'


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SimulatedKubernetes]:
    monkeypatch.setattr(kubernetes, "_WATCH_SECONDS", 300)
    async with simulated_kubernetes() as running:
        yield running


def pods(*hosts: str) -> frozenset[Endpoint]:
    return frozenset(Endpoint(host, 8130) for host in hosts)


async def test_pods_come_with_a_slice_change_with_it_and_go_with_it(
    cluster: SimulatedKubernetes, tmp_path: Path
) -> None:
    await cluster.create("one", {"10.0.0.1": READY, "10.0.0.2": READY})
    async with following(cluster.settings(tmp_path)) as follower:
        await until(lambda: cluster.watches == 1)
        await cluster.create("two", {"10.0.1.1": READY})
        await until(lambda: len(follower.published) == 2)
        await cluster.change("one", {"10.0.0.1": STOPPING, "10.0.0.2": READY})
        await until(lambda: len(follower.published) == 3)
        await cluster.delete("two")
        await until(lambda: len(follower.published) == 4)
        await cluster.delete("one")
        await until(lambda: len(follower.published) == 5)
    assert [each[RANKING] for each in follower.published] == [
        pods("10.0.0.1", "10.0.0.2"),
        pods("10.0.0.1", "10.0.0.2", "10.0.1.1"),
        pods("10.0.0.2", "10.0.1.1"),
        pods("10.0.0.2"),
        pods(),
    ]
    assert (cluster.lists, cluster.watches, follower.failures) == (1, 1, 0)


async def test_slices_of_other_services_are_left_out_whatever_the_api_sends(
    cluster: SimulatedKubernetes, tmp_path: Path
) -> None:
    await cluster.create("other", {"10.0.9.1": READY}, service="ranking")
    await cluster.create("one", {"10.0.0.1": READY})
    async with following(cluster.settings(tmp_path)) as follower:
        await until(lambda: bool(follower.published))
        await cluster.create("other-two", {"10.0.9.2": READY}, service="ranking")
        await cluster.create("two", {"10.0.1.1": READY})
        await until(lambda: len(follower.published) == 2)
    assert follower.published[1][RANKING] == pods("10.0.0.1", "10.0.1.1")


async def test_what_was_deleted_while_nobody_watched_is_gone_with_the_list_after_an_expiry(
    cluster: SimulatedKubernetes, tmp_path: Path
) -> None:
    await cluster.create("one", {"10.0.0.1": READY})
    await cluster.create("two", {"10.0.1.1": READY})
    expired = cluster.server[kmock.action.WATCH, SLICES][:1] << EXPIRED
    listed = cluster.server[kmock.action.LIST, SLICES]
    async with following(cluster.settings(tmp_path)) as follower:
        await until(lambda: len(expired) == 1)
        await cluster.delete("two")
        await until(lambda: len(listed) >= 2 and cluster.watches >= 2)
        await until(lambda: follower.published[-1][RANKING] == pods("10.0.0.1"))
    assert follower.failures == 0, "an expiry is no failure"


@pytest.mark.parametrize("action", [kmock.action.LIST, kmock.action.WATCH])
async def test_a_throttled_request_waits_as_long_as_the_api_asks_and_removes_no_pod(
    action: kmock.action, cluster: SimulatedKubernetes, tmp_path: Path, logs: Logs
) -> None:
    refused: list[float] = []
    await cluster.create("one", {"10.0.0.1": READY})
    throttled = cluster.server[action, SLICES][:2] << 429 << {"Retry-After": "1"} << THROTTLED
    throttled >> (lambda _: refused.append(time.monotonic()))
    async with following(cluster.settings(tmp_path)) as follower:
        await until(lambda: len(refused) == 2 and bool(follower.published))
        await cluster.create("two", {"10.0.1.1": READY})
        await until(lambda: follower.published[-1][RANKING] == pods("10.0.0.1", "10.0.1.1"))
    assert refused[1] - refused[0] >= 1, "at once it would stay throttled"
    assert follower.published[0][RANKING] == pods("10.0.0.1")
    assert follower.failures == 2
    [reason] = reasons(logs)  # what goes on is logged once
    assert reason.endswith("ing: 429: too many requests, please try again later")


@pytest.mark.parametrize("asked", ["", "soon", "-1", "Wed, 21 Oct 2026 07:28:00 GMT", "1e9", "٣"])
async def test_a_time_to_wait_that_is_none_leaves_the_backoff(
    asked: str, cluster: SimulatedKubernetes, tmp_path: Path
) -> None:
    await cluster.create("one", {"10.0.0.1": READY})
    headers = {"Retry-After": asked.encode().decode("latin-1")}
    throttled = cluster.server[kmock.action.LIST, SLICES][:1] << 429 << headers << THROTTLED
    async with following(cluster.settings(tmp_path)) as follower:
        await until(lambda: bool(follower.published))
    assert len(throttled) == 1


async def test_nobody_is_made_to_wait_for_longer_than_a_minute() -> None:
    assert kubernetes._seconds("86400") == 60


MANY_SLICES, PODS_OF_EACH = 100, 100


async def test_ten_thousand_pods_are_found_changed_in_a_burst_and_deleted(
    cluster: SimulatedKubernetes, tmp_path: Path
) -> None:
    def addresses(number: int, conditions: dict[str, bool]) -> dict[str, dict[str, bool]]:
        return {f"10.{number}.0.{each}": conditions for each in range(PODS_OF_EACH)}

    for number in range(MANY_SLICES):
        await cluster.create(f"slice-{number}", addresses(number, READY))
    async with following(cluster.settings(tmp_path)) as follower:
        await until(lambda: bool(follower.published) and cluster.watches == 1)
        assert len(follower.published[0][RANKING]) == MANY_SLICES * PODS_OF_EACH
        for number in range(MANY_SLICES // 2):
            await cluster.change(f"slice-{number}", addresses(number, STOPPING))
        for number in range(MANY_SLICES // 2, MANY_SLICES - 1):
            await cluster.delete(f"slice-{number}")
        await until(lambda: len(follower.published[-1][RANKING]) == PODS_OF_EACH)
    assert follower.published[-1][RANKING] == pods(*addresses(MANY_SLICES - 1, READY))
    assert (cluster.lists, cluster.watches, follower.failures) == (1, 1, 0)
