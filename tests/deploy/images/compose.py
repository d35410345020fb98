"""Runs the services of deploy/compose.yaml in network namespaces, as Docker would."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tests.builders.waiting import until
from tests.deploy.images.containers import Container, Image, mounted_image

FILE = Path(__file__).parents[3] / "deploy" / "compose.yaml"
ACCOUNT = 65532
_BRIDGE = "172.31.77.1/24"
_HEALTHY_SECONDS = 120.0


def read_compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the document, with each `${NAME:?message}` and `${NAME:-default}` replaced.

    Raises:
        KeyError: a variable has neither a value nor a default.
    """

    def value(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        return variables[name] if default is None else variables.get(name) or default

    written = re.sub(r"\$\{(\w+):(?:\?[^}]*|-([^}]*))\}", value, FILE.read_text())
    document: dict[str, Any] = yaml.safe_load(written)
    return document


@dataclass
class Compose:
    """The services that run."""

    services: Mapping[str, Any]
    folder: Path
    prefix: str
    """Begins the name of each namespace and container, which are unique on the machine."""
    images: dict[str, Image] = field(default_factory=dict)
    containers: dict[str, Container] = field(default_factory=dict)

    def volume(self, name: str) -> Path:
        """Return the folder of a volume, which the containers' account owns."""
        path = self.folder / "volumes" / name
        path.mkdir(parents=True, exist_ok=True)
        os.chown(path, ACCOUNT, ACCOUNT)
        return path

    def fill(self, name: str, folder: Path) -> None:
        """Copy what is in a folder to a volume."""
        target = self.volume(name)
        shutil.copytree(folder, target, dirs_exist_ok=True)
        for path in target.rglob("*"):
            os.chown(path, ACCOUNT, ACCOUNT)

    def address(self, name: str) -> str:
        """Return a service's address."""
        return _addresses(self.services)[name]

    def start(self, *names: str) -> None:
        """Start services, in this order."""
        for name in names:
            service = self.services[name]
            mounts = [text.split(":") for text in service.get("volumes", ())]
            owner = service.get("network_mode", f"service:{name}").removeprefix("service:")
            container = Container(
                self.images[service["image"]],
                f"{self.prefix}-{name}",
                self.folder / "containers" / name,
                service.get("command", ()),
                _texts(service.get("environment", {})),
                {place: self.volume(volume) for volume, place in mounts},
                self.folder / "hosts",
                Path("/run/netns", f"{self.prefix}-{owner}"),
            )
            container.start()
            self.containers[name] = container

    async def healthy(self, *names: str) -> None:
        """Wait until services are healthy, by the checks that Docker would run."""
        for name in names:
            container, check = self.containers[name], self.health_check(name)
            await until(partial(container.is_healthy, check), seconds=_HEALTHY_SECONDS)

    def health_check(self, name: str) -> list[str]:
        """Return the command of a service's health check: its own, or the image's."""
        service = self.services[name]
        own = service.get("healthcheck") or {}
        image = self.images[service["image"]].config.get("Healthcheck") or {}
        kind, *command = own.get("test") or image["Test"]
        assert kind == "CMD"
        return list(command)

    def call(self, command: Sequence[str | Path], **variables: str) -> str:
        """Run a program of this machine in their network; return what it printed."""
        finished = subprocess.run(
            ["ip", "netns", "exec", f"{self.prefix}-net", *command],
            env={**os.environ, **variables},
            capture_output=True,
            check=False,
            text=True,
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout


@contextmanager
def composed(folder: Path, variables: Mapping[str, str]) -> Iterator[Compose]:
    """Yield the services of the file, none of them started yet; all are stopped in the end."""
    services = {
        name: service
        for name, service in read_compose(variables)["services"].items()
        if "profiles" not in service
    }
    compose = Compose(services, folder, f"vireo{os.getpid()}")
    lines = [f"{address} {' '.join(names)}" for address, names in _names(services).items()]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
    with ExitStack() as stack:
        stack.enter_context(_network(compose.prefix, _addresses(services)))
        for name in {service["image"] for service in services.values()}:
            compose.images[name] = stack.enter_context(mounted_image(name))
        try:
            yield compose
        finally:
            for container in reversed(compose.containers.values()):
                container.stop()


def _texts(environment: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables' values; YAML reads one that became empty as null."""
    return {name: "" if value is None else str(value) for name, value in environment.items()}


def _addresses(services: Mapping[str, Any]) -> dict[str, str]:
    """Return the address of each service that has a network of its own."""
    free = (f"172.31.77.{number}" for number in itertools.count(100))
    return {
        name: service.get("networks", {}).get("default", {}).get("ipv4_address") or next(free)
        for name, service in services.items()
        if "network_mode" not in service
    }


def _names(services: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the names of each address."""
    return {
        address: [name, *services[name].get("networks", {}).get("default", {}).get("aliases", ())]
        for name, address in _addresses(services).items()
    }


@contextmanager
def _network(prefix: str, addresses: Mapping[str, str]) -> Iterator[None]:
    """A bridge in a namespace of its own, and a namespace on it for each address."""
    hub = f"{prefix}-net"
    namespaces = [hub, *(f"{prefix}-{name}" for name in addresses)]
    try:
        for namespace in namespaces:
            _ip("netns", "add", namespace)
            _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", hub, "link", "add", "br0", "type", "bridge")
        _ip("-n", hub, "address", "add", _BRIDGE, "dev", "br0")
        _ip("-n", hub, "link", "set", "br0", "up")
        for number, (name, address) in enumerate(addresses.items()):
            inside, port = f"{prefix}-{name}", f"port{number}"
            peer = ("peer", "name", "eth0", "netns", inside)
            _ip("-n", hub, "link", "add", port, "type", "veth", *peer)
            _ip("-n", hub, "link", "set", port, "master", "br0", "up")
            _ip("-n", inside, "address", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", inside, "link", "set", "eth0", "up")
        yield
    finally:
        for namespace in namespaces:
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
