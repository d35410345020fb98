"""What the resources say of a mesh."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.health_check_pb2 import HealthStatus
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from tests.builders.control import local, running_control
from tests.builders.s3 import unreachable_s3
from vireo.server.control.mesh import Members, Mesh, Pool
from vireo.server.control.resources import snapshot
from vireo.server.control.settings import ControlSettings
from vireo.server.control.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTES

SETTINGS = ControlSettings(s3=unreachable_s3())
PRODUCTION, CANARY = Pool("ranking"), Pool("ranking", "canary")
CANARY_CANDIDATES = Pool("candidate", "canary")


def assignment(mesh: Mesh, cluster: str) -> list[list[tuple[int, str]]]:
    """Return the ports and health of the pods by priority."""
    body = snapshot(SETTINGS, mesh).resources[ENDPOINTS][cluster].body
    return [
        [
            (each.endpoint.address.socket_address.port_value, HealthStatus.Name(each.health_status))
            for each in place.lb_endpoints
        ]
        for place in ClusterLoadAssignment.FromString(body.value).endpoints
    ]


def routes(mesh: Mesh, name: str) -> list[Any]:
    body = snapshot(SETTINGS, mesh).resources[ROUTES][name].body
    return list(RouteConfiguration.FromString(body.value).virtual_hosts[0].routes)


def test_productions_pods_are_checked_often_before_the_first_call_too() -> None:
    clusters = snapshot(SETTINGS, Mesh({})).resources[CLUSTER]
    for name, resource in clusters.items():
        [check] = Cluster.FromString(resource.body.value).health_checks
        rarely = name.endswith(("-canary", "-shadow"))
        assert check.no_traffic_healthy_interval.seconds == (30 if rarely else 3), name


def test_a_leaving_pod_is_published_as_draining() -> None:
    mesh = Mesh({PRODUCTION: Members(local(2, 1), local(3))})
    assert assignment(mesh, "ranking") == [[(1, "UNKNOWN"), (2, "UNKNOWN"), (3, "DRAINING")]]


def test_productions_pods_stand_behind_the_canarys() -> None:
    mesh = Mesh({PRODUCTION: Members(local(1)), CANARY: Members(local(9))})
    assert assignment(mesh, "ranking-canary") == [[(9, "UNKNOWN")], [(1, "UNKNOWN")]]


@pytest.mark.parametrize(("share", "end"), [(0.0001, 1), (0.1, 1000), (1.0, 10_000)])
def test_the_canarys_route_matches_the_buckets_below_its_share(share: float, end: int) -> None:
    both = {CANARY: Members(local(9)), CANARY_CANDIDATES: Members(local(8))}
    mesh = Mesh(both, canary_share=share)
    shadow, canary, production = routes(mesh, "ranking")
    [header] = canary.match.headers
    assert (header.name, header.range_match.start, header.range_match.end) == (
        "x-vireo-bucket",
        0,
        end,
    )
    assert [each.route.cluster for each in (shadow, canary, production)] == [
        "ranking-shadow",
        "ranking-canary",
        "ranking",
    ]


@pytest.mark.parametrize("service", ["candidate", "ranking"])
@pytest.mark.parametrize(
    ("candidates", "ranking", "share"),
    [
        (Members(local(8)), Members(local(9)), 0.0),
        (Members(), Members(), 0.5),
        (Members(local(8)), Members(), 0.5),
        (Members(), Members(local(9)), 0.5),
        (Members(local(8)), Members(draining=local(9)), 0.5),
    ],
)
def test_without_a_share_or_pods_of_both_services_the_canary_has_no_route(
    candidates: Members, ranking: Members, share: float, service: str
) -> None:
    mesh = Mesh({CANARY_CANDIDATES: candidates, CANARY: ranking}, canary_share=share)
    assert [each.name for each in routes(mesh, service)] == ["shadow", "production"]


def test_the_edge_has_clusters_and_routes_of_http_only_with_an_offset() -> None:
    mesh = Mesh({PRODUCTION: Members(local(8130, 65000), local(8131)), CANARY: Members(local(9))})
    off, on = (
        snapshot(SETTINGS.model_copy(update={"oip_http_offset": offset}), mesh).resources
        for offset in (0, 2000)
    )
    assert not [name for kind in off.values() for name in kind if name.endswith("-http")]
    assert b"/v2" not in off[ROUTES]["edge"].body.value
    assert b"/v2" in on[ROUTES]["edge"].body.value
    assert off[LISTENER]["edge"].version != on[LISTENER]["edge"].version
    cluster = Cluster.FromString(on[CLUSTER]["ranking-http"].body.value)
    assert cluster.health_checks[0].http_health_check.path == "/v2/health/ready"
    found = ClusterLoadAssignment.FromString(on[ENDPOINTS]["ranking-http"].body.value)
    [place] = found.endpoints  # without the canary's, and without a port beyond the highest
    ports = [each.endpoint.address.socket_address.port_value for each in place.lb_endpoints]
    assert ports == [10130, 10131]


async def test_two_control_planes_publish_the_same_so_that_an_envoy_may_move_between_them() -> None:
    ports = range(9000, 9100)
    published = []
    for order in (ports, reversed(ports)):
        async with running_control({Pool("candidate"): local(*order)}) as control:
            snapshot = control.servicer.snapshot
            assert snapshot is not None
            published.append(
                {
                    (kind, name): each.version
                    for kind, found in snapshot.resources.items()
                    for name, each in found.items()
                }
            )
    assert published[0] == published[1]
