"""What EndpointSlices come to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest

from vireo.server.control.mesh import Endpoint, Endpoints, Pool
from vireo.server.control.settings import KubernetesSettings
from vireo.server.control.slices import EndpointSlice, SlicePods, merged

RANKING = Pool("ranking")
POOLS = KubernetesSettings().pools


class Found(NamedTuple):
    """What slices come to."""

    endpoints: Endpoints
    flaws: frozenset[str]


def pods_of(slices: Iterable[EndpointSlice]) -> Found:
    parts = (SlicePods.of(each, POOLS[each.service]) for each in slices)
    return Found(*merged(parts, POOLS.values()))


def endpoint(address: str, pod: str | None = None, **conditions: bool | None) -> dict[str, Any]:
    reference = {"targetRef": {"kind": "Pod", "uid": pod}} if pod else {}
    return {"addresses": [address], "conditions": conditions, **reference}


def slice_of(
    *endpoints: dict[str, Any],
    family: str = "IPv4",
    ports: Any = ({"name": "grpc", "port": 8130, "protocol": "TCP"},),
    name: str = "vireo-ranking-abcde",
) -> EndpointSlice:
    labels = {"kubernetes.io/service-name": "vireo-ranking"}
    return EndpointSlice.model_validate(
        {
            "metadata": {"name": name, "resourceVersion": "1", "labels": labels},
            "addressType": family,
            "endpoints": endpoints,
            "ports": ports,
        }
    )


def ranking(*slices: EndpointSlice) -> frozenset[Endpoint]:
    found = pods_of(slices)
    assert not found.flaws
    return found.endpoints[RANKING]


def test_a_dual_stack_pod_is_listed_once_by_ipv4() -> None:
    four = slice_of(endpoint("10.0.0.1", "one"), endpoint("10.0.0.2", "two"))
    six = slice_of(endpoint("fd00::1", "one"), endpoint("fd00::3", "three"), family="IPv6")
    assert ranking(six, four) == {
        Endpoint("10.0.0.1", 8130),
        Endpoint("10.0.0.2", 8130),
        Endpoint("fd00::3", 8130),
    }


def test_ipv6_addresses_are_listed_in_short_form() -> None:
    six = slice_of(endpoint("fd00:0:0::00a1"), family="IPv6")
    assert ranking(six) == {Endpoint("fd00::a1", 8130)}


@pytest.mark.parametrize(
    ("conditions", "listed"),
    [
        ({}, True),
        ({"ready": None, "serving": None, "terminating": None}, True),
        ({"ready": True, "serving": True, "terminating": False}, True),
        ({"ready": False, "serving": False, "terminating": False}, False),
        ({"ready": False}, False),
        ({"ready": False, "serving": True, "terminating": True}, False),
        # Of a Service that publishes addresses that aren't ready.
        ({"ready": True, "serving": False, "terminating": False}, False),
        ({"ready": True, "serving": True, "terminating": True}, False),
    ],
)
def test_only_ready_serving_and_not_terminating_pods_are_listed(
    conditions: dict[str, bool | None], *, listed: bool
) -> None:
    assert bool(ranking(slice_of(endpoint("10.0.0.1", None, **conditions)))) == listed


def test_a_pod_that_is_unready_in_one_slice_is_out_even_if_another_is_stale() -> None:
    behind = slice_of(endpoint("10.0.0.1", "one", ready=True))
    ahead = slice_of(endpoint("10.0.0.1", "one", ready=False, terminating=True))
    assert ranking(behind, ahead) == frozenset()


def test_a_new_pod_with_the_address_of_a_terminating_one_is_listed() -> None:
    old = endpoint("10.0.0.1", "old", ready=False, terminating=True)
    assert ranking(slice_of(old, endpoint("10.0.0.1", "new"))) == {Endpoint("10.0.0.1", 8130)}


def test_each_slice_has_a_port_of_its_own() -> None:
    ports = ({"name": "metrics", "port": 9130}, {"name": "grpc", "port": 7000})
    assert ranking(
        slice_of(endpoint("10.0.0.1")),
        slice_of(endpoint("10.0.0.2"), ports=ports),
    ) == {Endpoint("10.0.0.1", 8130), Endpoint("10.0.0.2", 7000)}


@pytest.mark.parametrize(
    ("flawed", "words"),
    [
        (slice_of(endpoint("10.0.0.1"), ports=None), "no port is called 'grpc'"),
        (slice_of(endpoint("10.0.0.1"), ports=({"name": "http", "port": 1},)), "no port"),
        (slice_of(endpoint("10.0.0.1"), ports=({"name": "grpc"},)), "no port"),
        (slice_of(endpoint("pod.example"), family="FQDN"), "addresses of the type FQDN"),
        (slice_of(endpoint("10.0.0.300")), "'10.0.0.300' does not appear to be an IP"),
        (slice_of(endpoint("fe80::1%eth0"), family="IPv6"), "scope"),
        *(
            (
                slice_of(endpoint("10.0.0.1"), ports=({"name": "grpc", "port": port},)),
                f": {port} is",
            )
            for port in (0, -1, 65536, 1 << 40)
        ),
    ],
)
def test_unusable_entries_are_reported_and_remove_nothing_else(
    flawed: EndpointSlice, words: str
) -> None:
    good = slice_of(endpoint("10.0.0.2"), name="good")
    found = pods_of([flawed, good])
    [flaw] = found.flaws
    assert words in flaw
    assert "vireo-ranking-abcde" in flaw
    assert found.endpoints[RANKING] == {Endpoint("10.0.0.2", 8130)}
