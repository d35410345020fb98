"""Parse EndpointSlices into the endpoints of the pods that take traffic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from pydantic import AliasPath, BaseModel, ConfigDict, Field

from vireo.server.control.mesh import Endpoint, Endpoints, Pool

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


class Entry(NamedTuple):
    """One address of a pod."""

    family: str
    address: Endpoint
    takes_traffic: bool


@dataclass(frozen=True)
class SlicePods:
    """What a slice says of the pods of a pool."""

    pool: Pool
    pods: Mapping[str, tuple[Entry, ...]]
    """Entries of each pod, by its uid, or by its address if it has none."""
    flaws: frozenset[str] = frozenset()
    """Descriptions of the slice's invalid parts."""


@dataclass(frozen=True)
class Found:
    """The endpoints of a set of slices."""

    endpoints: Endpoints
    flaws: frozenset[str]
    """Descriptions of the slices' invalid parts."""


def slice_pods(each: EndpointSlice, pool: Pool, port_name: str) -> SlicePods:
    """Return what a slice says of its pods.

    Args:
        each: the slice.
        pool: the pool of its Service.
        port_name: name of the port that pods serve on.
    """
    where = f"EndpointSlice {each.name}"
    if not each.endpoints:
        return SlicePods(pool, {})
    port = next((it.port for it in each.ports or () if (it.name or "") == port_name), None)
    if each.family not in _FAMILIES:
        # Envoy doesn't resolve host names of endpoints.
        flaw = f"{where}: addresses of the type {each.family} are not supported"
        return SlicePods(pool, {}, frozenset({flaw}))
    if port is None:
        return SlicePods(pool, {}, frozenset({f"{where}: no port is called {port_name!r}"}))
    pods: dict[str, tuple[Entry, ...]] = {}
    flaws: set[str] = set()
    for endpoint in each.endpoints:
        try:
            address = Endpoint.checked(endpoint.addresses[0], port)
        except ValueError as error:
            flaws.add(f"{where}: {error}")
        else:
            pod = endpoint.pod or address.host
            entry = Entry(each.family, address, endpoint.takes_traffic)
            pods[pod] = (*pods.get(pod, ()), entry)
    return SlicePods(pool, pods, frozenset(flaws))


def merged(slices: Iterable[SlicePods], pools: Iterable[Pool]) -> Found:
    """Return the pods that take traffic, by pool.

    A pod that is in several slices, because it moves between them or has addresses of both
    families, is returned once, and only if it takes traffic in all of them.

    Args:
        slices: all slices.
        pools: all pools, also those without a slice.
    """
    flaws: set[str] = set()
    pods: dict[Pool, dict[str, tuple[Entry, ...]]] = {pool: {} for pool in pools}
    for each in slices:
        flaws |= each.flaws
        known = pods[each.pool]
        # Few pods are in two slices: of ten thousand most are merged without a look at each.
        again = {pod: known[pod] + each.pods[pod] for pod in known.keys() & each.pods.keys()}
        known.update(each.pods)
        known.update(again)
    endpoints = {
        pool: frozenset(chain.from_iterable(map(_preferred, found.values())))
        for pool, found in pods.items()
    }
    return Found(endpoints, frozenset(flaws))


def _preferred(entries: tuple[Entry, ...]) -> Iterable[Endpoint]:
    """Return a pod's addresses of the preferred family; none if it takes no traffic."""
    if len(entries) == 1:
        [entry] = entries
        return (entry.address,) if entry.takes_traffic else ()
    if not all(entry.takes_traffic for entry in entries):
        return ()
    preferred = min((entry.family for entry in entries), key=_FAMILIES.index)
    return {entry.address for entry in entries if entry.family == preferred}
