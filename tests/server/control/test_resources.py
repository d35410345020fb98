"""What the resources say of a mesh."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from tests.builders.control import local, running_control
from tests.builders.s3 import unreachable_s3
from vireo.server.control.mesh import SLATE, Endpoint, Mesh, Pool, with_slates
from vireo.server.control.resources import snapshot
from vireo.server.control.settings import ControlSettings
from vireo.server.control.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTES, Snapshot

SETTINGS = ControlSettings(s3=unreachable_s3())
PRODUCTION, CANARY = Pool("ranking"), Pool("ranking", "canary")
CANARY_CANDIDATES = Pool("candidate", "canary")


def ports(found: Snapshot, cluster: str) -> list[list[int]]:
    """Return the ports of the pods by priority."""
    body = found[ENDPOINTS][cluster].body
    return [
        [each.endpoint.address.socket_address.port_value for each in place.lb_endpoints]
        for place in ClusterLoadAssignment.FromString(body.value).endpoints
    ]


def routes(mesh: Mesh, name: str) -> list[Any]:
    body = snapshot(SETTINGS, mesh)[ROUTES][name].body
    return list(RouteConfiguration.FromString(body.value).virtual_hosts[0].routes)


def test_productions_pods_are_checked_often_before_the_first_call_too() -> None:
    clusters = snapshot(SETTINGS, Mesh({}))[CLUSTER]
    for name, resource in clusters.items():
        [check] = Cluster.FromString(resource.body.value).health_checks
        rarely = name.endswith("-canary")
        assert check.no_traffic_healthy_interval.seconds == (30 if rarely else 3), name


def test_productions_pods_stand_behind_the_canarys() -> None:
    found = snapshot(SETTINGS, Mesh({PRODUCTION: local(2, 1), CANARY: local(9)}))
    assert ports(found, "ranking-canary") == [[9], [1, 2]]


@pytest.mark.parametrize(
    ("gateways", "slates", "limits", "apart"),
    [
        (local(1, 2), local(), (65_536, 100), False),
        (local(1), local(2), (65_536, 100), False),  # on the way from one layout to the other
        (local(), local(1, 2), (64, 220), True),
        (local(), local(1, 2, 3), (128, 340), True),
    ],
)
def test_the_edge_bounds_calls_and_streams_in_flight_if_slate_pods_are_all_gateways(
    gateways: frozenset[Endpoint],
    slates: frozenset[Endpoint],
    limits: tuple[int, int],
    apart: bool,
) -> None:
    mesh = Mesh(with_slates({Pool("gateway"): gateways, SLATE: slates}))
    cluster = snapshot(SETTINGS, mesh)[CLUSTER]["gateway"].body.value
    calls, streams = Cluster.FromString(cluster).circuit_breakers.thresholds
    assert (calls.max_requests.value, streams.max_requests.value) == limits
    priorities = {each.name: each.route.priority for each in routes(mesh, "edge")}
    assert [bool(priorities[name]) for name in ("batch", "stream_events", "recommend")] == [
        apart,
        apart,
        False,
    ]


@pytest.mark.parametrize(("share", "end"), [(0.0001, 1), (0.1, 1000), (1.0, 10_000)])
def test_the_canarys_route_matches_the_buckets_below_its_share(share: float, end: int) -> None:
    mesh = Mesh({CANARY: local(9), CANARY_CANDIDATES: local(8)}, canary_share=share)
    canary, production = routes(mesh, "ranking")
    [header] = canary.match.headers
    assert (header.name, header.range_match.start, header.range_match.end) == (
        "x-vireo-bucket",
        0,
        end,
    )
    assert canary.route.cluster == "ranking-canary"
    assert production.route.cluster == "ranking"


@pytest.mark.parametrize("service", ["candidate", "ranking"])
@pytest.mark.parametrize(
    ("candidates", "ranking", "share"),
    [
        (local(8), local(9), 0.0),
        (local(), local(), 0.5),
        (local(8), local(), 0.5),
        (local(), local(9), 0.5),
    ],
)
def test_without_a_share_or_pods_of_both_services_the_canary_has_no_route(
    candidates: frozenset[Endpoint], ranking: frozenset[Endpoint], share: float, service: str
) -> None:
    mesh = Mesh({CANARY_CANDIDATES: candidates, CANARY: ranking}, canary_share=share)
    assert [each.name for each in routes(mesh, service)] == ["production"]


def test_the_edge_has_clusters_and_routes_of_http_only_with_an_offset() -> None:
    mesh = Mesh({PRODUCTION: local(8130, 65000, 8131), CANARY: local(9)})
    off, on = (
        snapshot(SETTINGS.model_copy(update={"oip_http_offset": offset}), mesh)
        for offset in (0, 2000)
    )
    assert not [name for kind in off.values() for name in kind if name.endswith("-http")]
    assert b"/v2" not in off[ROUTES]["edge"].body.value
    assert b"/v2" in on[ROUTES]["edge"].body.value
    assert off[LISTENER]["edge"].version != on[LISTENER]["edge"].version
    cluster = Cluster.FromString(on[CLUSTER]["ranking-http"].body.value)
    assert cluster.health_checks[0].http_health_check.path == "/v2/health/ready"
    # Without the canary's, and without a port beyond the highest.
    assert ports(on, "ranking-http") == [[10130, 10131]]


async def test_two_control_planes_publish_the_same_so_that_an_envoy_may_move_between_them() -> None:
    pods = range(9000, 9100)
    published = []
    for order in (pods, reversed(pods)):
        async with running_control({Pool("candidate"): local(*order)}) as control:
            snapshot = control.servicer.snapshot
            assert snapshot is not None
            published.append(
                {
                    (kind, name): each.version
                    for kind, found in snapshot.items()
                    for name, each in found.items()
                }
            )
    assert published[0] == published[1]
