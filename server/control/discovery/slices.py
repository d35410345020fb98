"""Parse EndpointSlices into the endpoints of the pods that take traffic."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from server.control.mesh import Endpoint, Endpoints, Pool

SERVICE_LABEL = "kubernetes.io/service-name"
"""Label of a slice with the name of its Service."""
_FAMILIES = ("IPv4", "IPv6")
"""Supported address families, in order of preference for a pod with both."""


class _Part(BaseModel):
    # Absent and null mean the same to the API; unused fields are ignored.
    model_config = ConfigDict(frozen=True)


class Conditions(_Part):
    """Conditions of an endpoint; None is unknown."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None

    @property
    def takes_traffic(self) -> bool:
        """Whether the endpoint takes new calls; unknown means yes.

        All three conditions count: if a Service publishes addresses that aren't ready, `ready` is
        always true, even while the pod terminates.
        """
        return self.ready is not False and self.serving is not False and not self.terminating


class TargetReference(_Part):
    """The pod of an endpoint."""

    uid: str | None = None


class SliceEndpoint(_Part):
    """One endpoint of a slice."""

    addresses: tuple[str, ...] = Field(min_length=1)
    """Addresses, of which only the first is meaningful."""
    conditions: Conditions | None = None
    target: TargetReference | None = Field(default=None, alias="targetRef")


class SlicePort(_Part):
    """A port of all endpoints of a slice."""

    name: str | None = None
    port: int | None = None


class Metadata(_Part):
    """Name, labels and version of an object."""

    name: str
    labels: Mapping[str, str] | None = None
    version: str = Field(alias="resourceVersion", min_length=1)


class EndpointSlice(_Part):
    """Some of a Service's endpoints, all with the same ports and address family."""

    metadata: Metadata
    family: str = Field(alias="addressType")
    endpoints: tuple[SliceEndpoint, ...] | None = None
    ports: tuple[SlicePort, ...] | None = None

    @property
    def service(self) -> str:
        """Name of the slice's Service."""
        return (self.metadata.labels or {}).get(SERVICE_LABEL, "")

    def port(self, name: str) -> int | None:
        """Return the port of this name; None if there is none, or if it has no number.

        A port without a number means all ports.
        """
        return next((each.port for each in self.ports or () if (each.name or "") == name), None)


@dataclass(frozen=True)
class Found:
    """The endpoints of a set of slices."""

    endpoints: Endpoints
    flaws: frozenset[str]
    """Descriptions of the slices' invalid parts."""


@dataclass(frozen=True)
class _Address:
    """One entry of a pod in a slice."""

    family: str
    endpoint: Endpoint
    takes_traffic: bool


def pods_of(slices: Iterable[EndpointSlice], pools: Mapping[str, Pool], port_name: str) -> Found:
    """Return the pods that take traffic, by pool.

    A pod that is in several slices, because it moves between them or has addresses of both
    families, is returned once, and only if it takes traffic in all of them.

    Args:
        slices: all slices.
        pools: the pool of each Service, by name; other Services are ignored.
        port_name: name of the port that pods serve on; see `EndpointSlice.port`.
    """
    flaws: set[str] = set()
    pods: dict[tuple[Pool, str], list[_Address]] = defaultdict(list)
    for each in slices:
        pool = pools.get(each.service)
        if pool is None or not each.endpoints:
            continue
        where = f"EndpointSlice {each.metadata.name}"
        port = each.port(port_name)
        if each.family not in _FAMILIES:
            # Envoy doesn't resolve host names of endpoints.
            flaws.add(f"{where}: addresses of the type {each.family} are not supported")
        elif port is None:
            flaws.add(f"{where}: no port is called {port_name!r}")
        else:
            for endpoint in each.endpoints:
                try:
                    address = Endpoint.checked(endpoint.addresses[0], port)
                except ValueError as error:
                    flaws.add(f"{where}: {error}")
                    continue
                pod = (endpoint.target and endpoint.target.uid) or address.host
                takes_traffic = (endpoint.conditions or Conditions()).takes_traffic
                pods[pool, pod].append(_Address(each.family, address, takes_traffic))
    found: dict[Pool, set[Endpoint]] = {pool: set() for pool in pools.values()}
    for (pool, _), addresses in pods.items():
        if all(entry.takes_traffic for entry in addresses):
            family = min((entry.family for entry in addresses), key=_FAMILIES.index)
            found[pool] |= {each.endpoint for each in addresses if each.family == family}
    return Found({pool: frozenset(each) for pool, each in found.items()}, frozenset(flaws))
