"""What service accounts may do, by a real API server, and that discovery needs no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import structlog
from kubernetes import client

from tests.builders.kubernetes_api import following, reasons
from tests.builders.kubernetes_cluster import Cluster
from tests.builders.waiting import until
from vireo.server.control.mesh import Pool
from vireo.server.control.settings import KubernetesSettings

pytestmark = [pytest.mark.integration, pytest.mark.slow]
RANKING = Pool("ranking")


class OlderClient(client.ApiClient):  # type: ignore[misc]
    """The client of a server whose EndpointSlices, otherwise the same, are v1beta1."""

    def call_api(self, method: str, url: str, *arguments: Any, **named: Any) -> Any:
        older = url.replace("discovery.k8s.io/v1/", "discovery.k8s.io/v1beta1/")
        return super().call_api(method, older, *arguments, **named)


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> str:
    name = cluster.namespace("accounts")
    cluster.deploy("install", name, "default", "--set=jobs.enabled=true,jobs.dataset=site")
    cluster.namespace("elsewhere")
    return name


async def test_discovery_with_the_control_planes_token_sees_pods_come_and_go(
    cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ApiClient", OlderClient)
    config = cluster.kubeconfig(namespace, cluster.token(namespace, "vireo-control"))
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/vireo-ranking"

    def scale(replicas: int) -> None:
        cluster.request("PATCH", path, {"spec": {"replicas": replicas}})

    async with following(KubernetesSettings(config=config)) as follower:

        def ranking() -> set[tuple[str, int]]:
            latest = follower.published[-1] if follower.published else {}
            return {(each.host, each.port) for each in latest.get(RANKING, ())}

        await until(lambda: len(ranking()) == 2)
        pods = cluster.pods(namespace, "ranking")
        assert ranking() == {(each["status"]["podIP"], 8130) for each in pods}
        scale(5)
        await until(lambda: len(ranking()) == 5)
        assert len(follower.published[-1][Pool("gateway")]) == 2
        scale(1)
        await until(lambda: len(ranking()) == 1)
        assert follower.failures == 0
    scale(2)


@pytest.mark.parametrize("account", ["vireo-pods", "default"])
async def test_discovery_with_another_accounts_token_says_what_is_forbidden(
    cluster: Cluster, namespace: str, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ApiClient", OlderClient)
    config: Path = cluster.kubeconfig(namespace, cluster.token(namespace, account))
    with structlog.testing.capture_logs() as logs:
        async with following(KubernetesSettings(config=config)) as follower:
            await until(lambda: follower.failures > 0)
    assert follower.published == []
    [reason, *_] = reasons(logs)
    assert "listing EndpointSlices: 403" in reason
    assert f'"system:serviceaccount:{namespace}:{account}" cannot list' in reason
