"""Where the scheduler puts pods, and where they go when a zone is lost."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.builders.kubernetes_cluster import ZONES, Cluster
from tests.builders.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]
COMPONENTS = ("edge", "gateway", "candidate", "ranking", "control", "consumer")


def zones(cluster: Cluster, namespace: str, component: str) -> Counter[str]:
    """Return how many of a component's ready pods each zone has."""
    return Counter(
        ZONES[pod["spec"]["nodeName"]]
        for pod in cluster.pods(namespace, component)
        for each in pod["status"].get("conditions", ())
        if (each["type"], each["status"]) == ("Ready", "True")
    )


def test_pods_of_a_lost_zone_are_made_in_the_others(cluster: Cluster) -> None:
    namespace = cluster.namespace("zones")
    cluster.deploy("install", namespace, "production", "--set=lostNodeSeconds=3")
    wait_until(lambda: cluster.is_settled(namespace))
    before = {each: zones(cluster, namespace, each) for each in COMPONENTS}
    for component in ("edge", "gateway", "candidate", "ranking", "consumer"):
        assert before[component].keys() == {"a", "b", "c"}, component
        assert max(before[component].values()) - min(before[component].values()) <= 1, component
    cluster.lost = {node for node, zone in ZONES.items() if zone == "c"}
    try:

        def moved() -> bool:
            now = {each: zones(cluster, namespace, each) for each in COMPONENTS}
            return all(
                not now[each]["c"] and now[each].total() == before[each].total()
                for each in COMPONENTS
            )

        wait_until(moved, 120)
        partitions = {
            each["metadata"]["labels"]["vireo/partition"]
            for each in cluster.pods(namespace, "consumer")
        }
        assert partitions == {"0", "1", "2", "3"}
    finally:
        cluster.lost = set()
