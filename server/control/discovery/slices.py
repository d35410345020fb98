"""What EndpointSlices say: which pods of a Service are to get traffic, and where they answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from server.control.mesh import Endpoint, Endpoints, Pool

SERVICE_LABEL = "kubernetes.io/service-name"
"""The label of a slice that names its Service."""
_FAMILIES = ("IPv4", "IPv6")
"""The kinds of addresses that are told, the one first that a pod of both is told by."""


class _Part(BaseModel):
    # Absent and null mean the same to the API; what isn't needed here is not looked at.
    model_config = ConfigDict(frozen=True)


class Conditions(_Part):
    """What is known of an endpoint; None is unknown."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None

    @property
    def takes_traffic(self) -> bool:
        """Whether new calls may go there; unknown means yes.

        All three count: where a Service publishes addresses that aren't ready, `ready` is always
        true, and even while the pod terminates.
        """
        return self.ready is not False and self.serving is not False and not self.terminating


class TargetReference(_Part):
    """The pod that an endpoint is an address of."""

    uid: str | None = None


class SliceEndpoint(_Part):
    """One endpoint of a slice."""

    addresses: tuple[str, ...] = Field(min_length=1)
    """The first is meant; the others have no meaning."""
    conditions: Conditions | None = None
    target: TargetReference | None = Field(default=None, alias="targetRef")


class SlicePort(_Part):
    """A port on which all endpoints of a slice answer."""

    name: str | None = None
    port: int | None = None


class Metadata(_Part):
    """Name, labels and version of an object."""

    name: str
    labels: Mapping[str, str] | None = None
    version: str = Field(alias="resourceVersion", min_length=1)


class EndpointSlice(_Part):
    """A part of the endpoints of a Service, all with the same ports and kind of address."""

    metadata: Metadata
    family: str = Field(alias="addressType")
    endpoints: tuple[SliceEndpoint, ...] | None = None
    ports: tuple[SlicePort, ...] | None = None

    @property
    def service(self) -> str:
        """The Service that it is a part of."""
        return (self.metadata.labels or {}).get(SERVICE_LABEL, "")

    def port(self, name: str) -> int | None:
        """Return the port of this name; None if there is none.

        A port without a number stands for all ports, and isn't one.
        """
        return next((each.port for each in self.ports or () if (each.name or "") == name), None)


@dataclass(frozen=True)
class Found:
    """What a set of slices comes to."""

    endpoints: Endpoints
    flaws: frozenset[str]
    """What of the slices can't be used, and why."""


@dataclass(frozen=True)
class _Address:
    """One mention of a pod in a slice."""

    family: str
    endpoint: Endpoint
    takes_traffic: bool


def pods_of(slices: Iterable[EndpointSlice], pools: Mapping[str, Pool], port_name: str) -> Found:
    """The pods that are to get traffic, by pool.

    A pod that is in several slices, because it moves between them or has addresses of both
    families, is told once, and only if none of them takes it out of traffic.

    Args:
        slices: all that there are.
        pools: the pool of each Service, by name; other Services are left out.
        port_name: name of the port on which pods answer; see `EndpointSlice.port`.
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
            # Names aren't looked up by whom endpoints are told to.
            flaws.add(f"{where}: addresses of the type {each.family}, and only IP addresses serve")
        elif port is None:
            flaws.add(f"{where}: no port is called {port_name!r}")
        else:
            for endpoint in each.endpoints:
                try:
                    told = Endpoint.checked(endpoint.addresses[0], port)
                except ValueError as error:
                    flaws.add(f"{where}: {error}")
                    continue
                pod = (endpoint.target and endpoint.target.uid) or told.host
                takes_traffic = (endpoint.conditions or Conditions()).takes_traffic
                pods[pool, pod].append(_Address(each.family, told, takes_traffic))
    found: dict[Pool, set[Endpoint]] = {pool: set() for pool in pools.values()}
    for (pool, _), addresses in pods.items():
        if all(address.takes_traffic for address in addresses):
            family = min((address.family for address in addresses), key=_FAMILIES.index)
            found[pool] |= {each.endpoint for each in addresses if each.family == family}
    return Found({pool: frozenset(each) for pool, each in found.items()}, frozenset(flaws))
