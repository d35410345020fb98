"""Parse EndpointSlices into the endpoints of the pods that take traffic."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import AliasPath, BaseModel, ConfigDict, Field

from server.control.mesh import Endpoint, Endpoints, Pool

SERVICE_LABEL = "kubernetes.io/service-name"
"""Label of a slice with the name of its Service."""
_FAMILIES = ("IPv4", "IPv6")
"""Supported address families, in order of preference for a pod with both."""


class _Part(BaseModel):
    # Absent and null mean the same to the API; unused fields are ignored.
    model_config = ConfigDict(frozen=True)


class SliceEndpoint(_Part):
    """One endpoint of a slice."""

    addresses: tuple[str, ...] = Field(min_length=1)
    """Addresses, of which only the first is meaningful."""
    pod: str | None = Field(default=None, validation_alias=AliasPath("targetRef", "uid"))
    ready: bool | None = Field(default=None, validation_alias=AliasPath("conditions", "ready"))
    serving: bool | None = Field(default=None, validation_alias=AliasPath("conditions", "serving"))
    terminating: bool | None = Field(
        default=None, validation_alias=AliasPath("conditions", "terminating")
    )

    @property
    def takes_traffic(self) -> bool:
        """Whether the endpoint takes new calls; unknown means yes.

        All three conditions count: if a Service publishes addresses that aren't ready, `ready` is
        always true, even while the pod terminates.
        """
        return self.ready is not False and self.serving is not False and not self.terminating


class SlicePort(_Part):
    """A port of all endpoints of a slice; one without a number means all ports."""

    name: str | None = None
    port: int | None = None


class EndpointSlice(_Part):
    """Some of a Service's endpoints, all with the same ports and address family."""

    name: str = Field(validation_alias=AliasPath("metadata", "name"))
    version: str = Field(min_length=1, validation_alias=AliasPath("metadata", "resourceVersion"))
    service: str = Field(
        default="", validation_alias=AliasPath("metadata", "labels", SERVICE_LABEL)
    )
    family: str = Field(alias="addressType")
    endpoints: tuple[SliceEndpoint, ...] | None = None
    ports: tuple[SlicePort, ...] | None = None


@dataclass(frozen=True)
class Found:
    """The endpoints of a set of slices."""

    endpoints: Endpoints
    flaws: frozenset[str]
    """Descriptions of the slices' invalid parts."""


def pods_of(slices: Iterable[EndpointSlice], pools: Mapping[str, Pool], port_name: str) -> Found:
    """Return the pods that take traffic, by pool.

    A pod that is in several slices, because it moves between them or has addresses of both
    families, is returned once, and only if it takes traffic in all of them.

    Args:
        slices: all slices.
        pools: the pool of each Service, by name; other Services are ignored.
        port_name: name of the port that pods serve on.
    """
    flaws: set[str] = set()
    pods: dict[tuple[Pool, str], list[tuple[str, Endpoint, bool]]] = defaultdict(list)
    """Family and address of each entry of a pod, and whether it takes traffic."""
    for each in slices:
        pool = pools.get(each.service)
        if pool is None or not each.endpoints:
            continue
        where = f"EndpointSlice {each.name}"
        port = next((it.port for it in each.ports or () if (it.name or "") == port_name), None)
        if each.family not in _FAMILIES:
            # Envoy doesn't resolve host names of endpoints.
            flaws.add(f"{where}: addresses of the type {each.family} are not supported")
            continue
        if port is None:
            flaws.add(f"{where}: no port is called {port_name!r}")
            continue
        for endpoint in each.endpoints:
            try:
                address = Endpoint.checked(endpoint.addresses[0], port)
            except ValueError as error:
                flaws.add(f"{where}: {error}")
            else:
                entry = (each.family, address, endpoint.takes_traffic)
                pods[pool, endpoint.pod or address.host].append(entry)
    found: dict[Pool, set[Endpoint]] = {pool: set() for pool in pools.values()}
    for (pool, _), entries in pods.items():
        if all(takes_traffic for _, _, takes_traffic in entries):
            preferred = min((family for family, _, _ in entries), key=_FAMILIES.index)
            found[pool] |= {address for family, address, _ in entries if family == preferred}
    return Found({pool: frozenset(each) for pool, each in found.items()}, frozenset(flaws))
