"""An API server of Kubernetes, simulated by kmock, that keeps EndpointSlices."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kmock

from tests.builders.kubernetes_api import endpoint_slice, write_kubeconfig
from vireo.server.control.settings import KubernetesSettings

SLICES = kmock.resource("discovery.k8s.io", "v1", "endpointslices")
_PATH = "/apis/discovery.k8s.io/v1/namespaces/vireo/endpointslices"
READY = {"ready": True, "serving": True, "terminating": False}
STOPPING = {"ready": False, "serving": True, "terminating": True}


@dataclass
class SimulatedKubernetes:
    """A cluster whose slices a test makes, changes and deletes, as controllers do."""

    server: kmock.KubernetesEmulator
    url: str
    _versions: itertools.count[int] = field(default_factory=lambda: itertools.count(1000))

    @property
    def lists(self) -> int:
        """Number of lists that were asked for."""
        return len(list(self.server[kmock.action.LIST, SLICES]))

    @property
    def watches(self) -> int:
        """Number of watches that were asked for."""
        return len(list(self.server[kmock.action.WATCH, SLICES]))

    def settings(self, folder: Path) -> KubernetesSettings:
        """Settings that lead here."""
        return KubernetesSettings(config=write_kubeconfig(folder / "kubeconfig", self.url, "token"))

    async def create(
        self,
        name: str,
        conditions: Mapping[str, Mapping[str, bool]],
        service: str = "vireo-ranking",
    ) -> None:
        """Make a slice of a Service's pods, whose conditions are by address."""
        await self._request("POST", "", self._slice(name, conditions, service))

    async def change(self, name: str, conditions: Mapping[str, Mapping[str, bool]]) -> None:
        """Change the conditions of a slice's pods, or which there are."""
        changed = self._slice(name, conditions)
        version = {"resourceVersion": changed["metadata"]["resourceVersion"]}
        patch = {"metadata": version, "endpoints": changed["endpoints"]}
        await self._request("PATCH", f"/{name}", patch)

    async def delete(self, name: str) -> None:
        """Delete a slice."""
        await self._request("DELETE", f"/{name}", None)

    def _slice(
        self,
        name: str,
        conditions: Mapping[str, Mapping[str, bool]],
        service: str = "vireo-ranking",
    ) -> dict[str, Any]:
        made = endpoint_slice(service, next(self._versions), 8130, conditions)
        made["metadata"]["name"] = name
        return made

    async def _request(self, method: str, path: str, body: Any) -> None:
        async with self.server.request(method, _PATH + path, json=body) as response:
            assert response.status == 200, await response.text()


@asynccontextmanager
async def simulated_kubernetes() -> AsyncIterator[SimulatedKubernetes]:
    """A cluster that knows of EndpointSlices, and has none."""
    async with kmock.KubernetesEmulator() as emulator, kmock.Server(emulator) as server:
        emulator.resources[SLICES] = kmock.ResourceInfo()
        yield SimulatedKubernetes(emulator, str(server.url))
