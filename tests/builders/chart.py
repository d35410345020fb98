"""What Helm renders of the chart, and what it comes to for processes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).parents[2]
CHART = CHECKOUT / "deploy" / "helm" / "vireo"
VALUES = {each.stem: each for each in (CHECKOUT / "deploy" / "helm" / "values").glob("*.yaml")}
"""The files of values that are published beside the chart, by name."""
Document = Mapping[str, Any]


class _Loader(yaml.CSafeLoader):
    """YAML loader that refuses repeated keys, of which the API would take the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        found = super().construct_mapping(node, deep)
        assert len(found) == len(node.value), f"duplicate key, {node.start_mark}"
        return found


def helm_program() -> str:
    """Return the path of Helm: that of `make helm`, or else the machine's."""
    made = CHECKOUT / ".vireo" / "helm" / "helm"
    program = str(made) if made.exists() else shutil.which("helm")
    if program is None:
        pytest.fail("there is no helm; get it with: make helm")
    return program


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Helm."""
    return subprocess.run([helm_program(), *arguments], capture_output=True, text=True)


@dataclass(frozen=True)
class Rendered:
    """The objects of one release of the chart."""

    documents: tuple[Document, ...]

    def named(self, kind: str) -> dict[str, Document]:
        """All objects of a kind, by name."""
        return {each["metadata"]["name"]: each for each in self.documents if each["kind"] == kind}

    def pods(self) -> dict[str, Document]:
        """The pod template of everything that makes pods, by name."""
        found = {
            name: each["spec"]["template"]
            for kind in ("Deployment", "StatefulSet")
            for name, each in self.named(kind).items()
        }
        for name, each in self.named("CronJob").items():
            found[name] = each["spec"]["jobTemplate"]["spec"]["template"]
        return found

    def containers(self) -> Iterator[tuple[str, Document]]:
        """Every container, with the name of what makes its pod."""
        for name, pod in self.pods().items():
            spec = pod["spec"]
            for container in [*spec.get("initContainers", ()), *spec["containers"]]:
                yield name, container

    def servers(self) -> dict[str, Document]:
        """The container of each server process of ours, by the name of what makes its pod."""
        return {name: each for name, each in self.containers() if each["command"][0] == "python"}

    def envoys(self) -> dict[str, Document]:
        """The container of each Envoy, by the name of what makes its pod."""
        return {name: each for name, each in self.containers() if each["command"] == ["envoy"]}

    def envoy_files(self) -> dict[str, str]:
        """What lies in Envoy's folder."""
        files: dict[str, str] = self.named("ConfigMap")["vireo-envoy"]["data"]
        return files


def render(*arguments: str, release: str = "vireo") -> Rendered:
    """Render the chart; fail the test with Helm's words if it refuses."""
    done = helm("template", release, str(CHART), "--namespace", "shop", *arguments)
    assert done.returncode == 0, done.stderr
    return Rendered(tuple(filter(None, yaml.load_all(done.stdout, _Loader))))


@cache
def rendered(values: str) -> Rendered:
    """The chart with the published values of this name; "default" for its own."""
    return render(*(() if values == "default" else ("--values", str(VALUES[values]))))


def flags(*settings: str) -> list[str]:
    """Return the flags by which Helm sets these values, `a.b=c`, of which c is JSON."""
    return [part for each in settings for part in ("--set-json", each)]


def refusal(*settings: str) -> str:
    """Return why Helm refuses these values, `a.b=c`; fail the test if it doesn't."""
    done = helm("template", "vireo", str(CHART), *flags(*settings))
    assert done.returncode != 0, "Helm rendered it"
    return done.stderr
