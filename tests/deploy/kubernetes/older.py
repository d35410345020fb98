"""Helm's post-renderer: what of the chart Kubernetes 1.20 knows by another name, or not at all.

All that this leaves the server validates strictly, by its own schemas.
"""

from __future__ import annotations

import sys
from typing import Any

import yaml

VERSIONS = {
    "CronJob": "batch/v1beta1",
    "HorizontalPodAutoscaler": "autoscaling/v2beta2",
    "PodDisruptionBudget": "policy/v1beta1",
}
UNKNOWN = {"matchLabelKeys", "nodeTaintsPolicy", "timeZone", "unhealthyPodEvictionPolicy"}


def older(value: Any) -> Any:
    """Return an object, or a part of one, for Kubernetes 1.20."""
    if isinstance(value, list):
        return [older(each) for each in value]
    if not isinstance(value, dict):
        return "ReadWriteOnce" if value == "ReadWriteOncePod" else value
    found = {key: older(each) for key, each in value.items() if key not in UNKNOWN}
    if value.get("kind") in VERSIONS and "apiVersion" in value:
        found["apiVersion"] = VERSIONS[value["kind"]]
    if isinstance(found.get("grpc"), dict):
        found["tcpSocket"] = {"port": found.pop("grpc")["port"]}
    starting = found.get("initContainers", [])
    sidecars = [each for each in starting if each.pop("restartPolicy", "") == "Always"]
    if sidecars:
        found["containers"] += sidecars
        found["initContainers"] = [each for each in starting if each not in sidecars]
    return found


if __name__ == "__main__":
    yaml.safe_dump_all(map(older, yaml.safe_load_all(sys.stdin)), sys.stdout)
