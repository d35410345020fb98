"""That a real API server takes the chart, and its controllers roll it out without losing pods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from tests.builders.kubernetes_cluster import Cluster, RefusedError
from tests.builders.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]
BUSY = {"spec": {"replicas": 7}}
TESTED = ("--set=tokens.jwksUrl=https://keys,test.token.existingSecret=caller",)


def path_of(made: Mapping[str, Any], namespace: str) -> str:
    """Return where the API has an object of a manifest."""
    group, _, version = made["apiVersion"].rpartition("/")
    kind = made["kind"].lower()
    plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
    root = f"/apis/{group}/{version}" if group else f"/api/{version}"
    return f"{root}/namespaces/{namespace}/{plural}/{made['metadata']['name']}"


def exists(cluster: Cluster, path: str) -> bool:
    try:
        cluster.request("GET", path)
    except RefusedError as error:
        if error.status != 404:
            raise
        return False
    return True


def deployments(cluster: Cluster, namespace: str) -> str:
    return f"/apis/apps/v1/namespaces/{namespace}/deployments"


def changes(cluster: Cluster, namespace: str, since: str) -> list[Any]:
    """Return each state that the Deployments had since a version of the API."""
    query = f"watch=1&timeoutSeconds=1&resourceVersion={since}"
    events = cluster.request("GET", f"{deployments(cluster, namespace)}?{query}")
    return [each["object"] for each in events]


def scaled(cluster: Cluster, namespace: str) -> set[str]:
    """Return the names of Deployments that have an autoscaler."""
    path = f"/apis/autoscaling/v1/namespaces/{namespace}/horizontalpodautoscalers"
    return {each["metadata"]["name"] for each in cluster.items(path)}


def version(cluster: Cluster, namespace: str) -> str:
    """Return the version of the API at which the Deployments are as they are now."""
    listed = cluster.request("GET", deployments(cluster, namespace))
    return str(listed["metadata"]["resourceVersion"])


def images(cluster: Cluster, namespace: str) -> set[str]:
    """Return the tags of the images that Deployments run, without Envoy's and the canary's."""
    return {
        container["image"].rpartition(":")[2]
        for each in cluster.items(deployments(cluster, namespace))
        for container in each["spec"]["template"]["spec"]["containers"]
        if "canary" not in each["metadata"]["name"]
    }


@pytest.mark.parametrize("values", ["minimal", "production", "canary"])
def test_it_is_installed_upgraded_rolled_back_and_uninstalled_and_never_lacks_a_pod(
    cluster: Cluster, values: str
) -> None:
    namespace = cluster.namespace(values)
    cluster.deploy("install", namespace, values, *TESTED)
    manifest = cluster.helm("get", "manifest", "vireo", "--namespace", namespace)
    made = [(path_of(each, namespace), each["kind"]) for each in yaml.safe_load_all(manifest)]
    assert len(made) > 15
    assert all(exists(cluster, path) for path, _ in made)
    assert images(cluster, namespace) == {"0.1.0"}

    wait_until(lambda: cluster.is_settled(namespace))
    for name in scaled(cluster, namespace):  # as an autoscaler does
        cluster.request("PATCH", f"{deployments(cluster, namespace)}/{name}", BUSY)
    wait_until(lambda: cluster.is_settled(namespace))
    numbers = {
        each["metadata"]["name"]: each["spec"]["replicas"]
        for each in cluster.items(deployments(cluster, namespace))
    }
    assert (set(numbers.values()) == {1, 2, 7}) is (values == "production")
    before = version(cluster, namespace)
    cluster.deploy("upgrade", namespace, values, *TESTED, "--set=images.tag=0.2.0")
    assert images(cluster, namespace) == {"0.2.0"}
    cluster.helm(
        "rollback", "vireo", "--namespace", namespace, "--server-side=false", "--wait=legacy"
    )
    assert images(cluster, namespace) == {"0.1.0"}
    seen = changes(cluster, namespace, before)
    assert len(seen) > 10
    for each in seen:
        name = each["metadata"]["name"]
        assert each["spec"]["replicas"] == numbers[name], name
        assert each["status"].get("availableReplicas", 0) >= numbers[name], name

    cluster.helm("uninstall", "vireo", "--namespace", namespace, "--wait=legacy")
    kept = {kind for path, kind in made if exists(cluster, path)}
    assert kept == {"PersistentVolumeClaim"}


def test_the_test_of_a_secured_release_is_a_pod_that_the_api_takes(cluster: Cluster) -> None:
    namespace = cluster.namespace("tested")
    cluster.deploy("install", namespace, "default", "--set=tls.enabled=true", *TESTED)
    assert "Phase:          Succeeded" in cluster.helm("test", "vireo", "--namespace", namespace)


def test_a_drain_takes_one_pod_in_ten_at_a_time(cluster: Cluster) -> None:
    namespace = cluster.namespace("drained")
    cluster.deploy("install", namespace, "default", "--set=ranking.replicas=4")
    one, other, *_ = [each["metadata"]["name"] for each in cluster.pods(namespace, "ranking")]

    def evict(name: str) -> int:
        about = {"name": name, "namespace": namespace}
        wanted = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": about}
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/eviction"
        try:
            cluster.request("POST", path, wanted)
        except RefusedError as error:
            return error.status
        return 201

    cluster.starts = False
    try:
        wait_until(lambda: evict(one) == 201)
        assert evict(other) == 429, "the first one's successor isn't ready"
    finally:
        cluster.starts = True
    wait_until(lambda: evict(other) == 201)
