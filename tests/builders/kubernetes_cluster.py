"""A cluster of Kubernetes, as its administrator and its kubelets see it, which run no pods."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import urllib3

from tests.builders.chart import VALUES, helm_program
from tests.builders.kubernetes_api import write_kubeconfig

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
ADMIN = "admin"  # a token of servers that last as long as a test
ZONES = {f"{zone}{number}": zone for zone in "abc" for number in (1, 2)}
"""The zone of each node."""
Object = dict[str, Any]


class RefusedError(Exception):
    """The API refused a request."""

    def __init__(self, status: int, body: str) -> None:
        """Take what the API responded."""
        super().__init__(f"{status}: {body}")
        self.status = status


@dataclass
class Cluster:
    """A cluster as its administrator sees it."""

    folder: Path
    url: str
    lost: set[str] = field(default_factory=set)
    """Nodes whose kubelets are silent."""
    starts: bool = True
    """Whether kubelets report new pods as ready."""

    @property
    def authority(self) -> Path:
        """File of who signed the API server's certificate."""
        return self.folder / "apiserver.crt"

    @cached_property
    def _pool(self) -> urllib3.PoolManager:
        return urllib3.PoolManager(ca_certs=str(self.authority), maxsize=4)

    def request(self, method: str, path: str, body: object = None, token: str = ADMIN) -> Any:
        """Return the API's response, a list of events if it is a watch's.

        Raises:
            RefusedError: it isn't one of success.
        """
        kind = "strategic-merge-patch+json" if method == "PATCH" else "json"
        headers = {"authorization": f"Bearer {token}", "content-type": f"application/{kind}"}
        text = json.dumps(body) if body is not None else None
        answer = self._pool.request(method, self.url + path, body=text, headers=headers)
        if answer.status >= 300:
            raise RefusedError(answer.status, answer.data.decode())
        if "watch=" in path:
            return [json.loads(line) for line in answer.data.splitlines()]
        return answer.json()

    def items(self, path: str) -> list[Object]:
        """Return the objects of a list."""
        found: list[Object] = self.request("GET", path)["items"]
        return found

    def pods(self, namespace: str, component: str) -> list[Object]:
        """Return a component's pods that don't terminate."""
        label = f"app.kubernetes.io/component={component}"
        found = self.items(f"/api/v1/namespaces/{namespace}/pods?labelSelector={label}")
        return [each for each in found if "deletionTimestamp" not in each["metadata"]]

    def is_settled(self, namespace: str) -> bool:
        """Return whether all Deployments have as many pods as they want, and autoscalers demand."""
        scalers = self.items(
            f"/apis/autoscaling/v1/namespaces/{namespace}/horizontalpodautoscalers"
        )
        least = {each["metadata"]["name"]: each["spec"]["minReplicas"] for each in scalers}
        return all(
            each["status"].get("availableReplicas", 0)
            == each["spec"]["replicas"]
            >= least.get(each["metadata"]["name"], 1)
            for each in self.items(f"/apis/apps/v1/namespaces/{namespace}/deployments")
        )

    def token(self, namespace: str, account: str) -> str:
        """Return a token of a service account."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        wanted = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        return str(self.request("POST", path, wanted)["status"]["token"])

    def kubeconfig(self, namespace: str = "default", token: str = ADMIN) -> Path:
        """Write a kubeconfig for whoever has this token."""
        path = self.folder / f"{namespace}-{abs(hash(token))}.yaml"
        authority = {"certificate-authority": str(self.authority)}
        return write_kubeconfig(path, self.url, token, namespace, **authority)

    def namespace(self, name: str) -> str:
        """Make a namespace, and volumes for what the chart claims."""
        self.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        spec = {
            "capacity": {"storage": "100Gi"},
            "accessModes": ["ReadWriteMany", "ReadWriteOnce"],
            "nfs": {"server": "none", "path": "/"},
        }
        for number, kind in enumerate(("", "", "nfs")):
            named = {"name": f"{name}-{number}"}
            volume = {"metadata": named, "spec": {**spec, "storageClassName": kind}}
            self.request("POST", "/api/v1/persistentvolumes", volume)
        return name

    def helm(self, *arguments: str) -> str:
        """Run Helm with the chart as Kubernetes 1.20 knows it; fail the test if it fails."""
        done = subprocess.run(
            [helm_program(), *arguments, "--kubeconfig", str(self.kubeconfig())],
            env={**os.environ, "HELM_PLUGINS": str(self.folder / "plugins")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def deploy(self, verb: str, namespace: str, values: str, *arguments: str) -> None:
        """Install or upgrade the release `vireo`, and wait until its pods are ready."""
        files = () if values == "default" else ("--values", str(VALUES[values]))
        # Apply by the server came to be complete with 1.22.
        how = ("--server-side=false", "--post-renderer", "older", "--wait=legacy", "--timeout=3m")
        chart = str(self.folder / "chart")
        self.helm(verb, "vireo", chart, "--namespace", namespace, *files, *how, *arguments)

    def run_kubelets(self, stop: threading.Event) -> None:
        """Report nodes as alive and their pods as ready, until `stop` is set."""
        addresses = count(1)
        while not stop.wait(0.2):
            for node in ZONES.keys() - self.lost:
                self._renew(node)
            for pod in self.items("/api/v1/pods"):
                if pod["spec"].get("nodeName") in ZONES.keys() - self.lost:
                    try:
                        self._report(pod, addresses)
                    except RefusedError as error:
                        if error.status not in (404, 409):  # another removed or changed it
                            raise
            for service in self.items("/api/v1/services"):
                about = service["spec"]["type"], service["status"]["loadBalancer"]
                if about == ("LoadBalancer", {}):  # as a cloud does
                    address = {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}
                    self.request("PATCH", _status_path(service, "services"), {"status": address})

    def _renew(self, node: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self.request("PATCH", f"{LEASES}/{node}", {"spec": {"renewTime": now}})

    def _report(self, pod: Object, addresses: Iterator[int]) -> None:
        path = _status_path(pod, "pods")
        if "deletionTimestamp" in pod["metadata"]:
            self.request("DELETE", f"{path.removesuffix('/status')}?gracePeriodSeconds=0")
        elif pod["status"]["phase"] == "Pending" and self.starts:
            number = next(addresses)
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            ready = {"status": "True", "lastTransitionTime": now}
            status = {
                "phase": "Succeeded" if pod["spec"]["restartPolicy"] == "Never" else "Running",
                "podIP": f"10.1.{number // 250}.{number % 250 + 1}",
                "conditions": [{"type": each, **ready} for each in ("ContainersReady", "Ready")],
            }
            self.request("PATCH", path, {"status": status})

    def make_nodes(self) -> None:
        for node, zone in ZONES.items():
            labels = {"topology.kubernetes.io/zone": zone, "kubernetes.io/hostname": node}
            self.request("POST", "/api/v1/nodes", {"metadata": {"name": node, "labels": labels}})
            lease = {"holderIdentity": node, "leaseDurationSeconds": 40}
            self.request("POST", LEASES, {"metadata": {"name": node}, "spec": lease})
            capacity = {"cpu": "32", "memory": "128Gi", "pods": "110"}
            ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
            status = {"capacity": capacity, "allocatable": capacity, "conditions": [ready]}
            self.request("PATCH", f"/api/v1/nodes/{node}/status", {"status": status})

    def make_kinds(self) -> None:
        """Make what the production values need: the operator's kinds, and a class of pods."""
        anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        for kind in ("PodMonitor", "PrometheusRule"):
            plural = f"{kind.lower()}s"
            schema = {"openAPIV3Schema": anything}
            version = {"name": "v1", "served": True, "storage": True, "schema": schema}
            spec = {
                "group": "monitoring.coreos.com",
                "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural},
                "versions": [version],
            }
            made = {"metadata": {"name": f"{plural}.monitoring.coreos.com"}, "spec": spec}
            crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
            self.request("POST", crds, made)
        priority = {"metadata": {"name": "serving"}, "value": 1000}
        self.request("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", priority)


def _status_path(named: Object, plural: str) -> str:
    """Return where the API has an object's status."""
    about = named["metadata"]
    return f"/api/v1/namespaces/{about['namespace']}/{plural}/{about['name']}/status"
