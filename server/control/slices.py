"""Parse EndpointSlices of Kubernetes into the endpoints of the pods that take traffic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from pydantic import AliasPath, BaseModel, ConfigDict, Field

from vireo.server.control.mesh import Endpoint, Endpoints, Pool

SERVICE_LABEL = "kubernetes.io/service-name"
"""Label of a slice with the name of its Service."""
PORT_NAME = "grpc"
"""Name of the port that the pods of all Services serve on."""
_FAMILIES = ("IPv4", "IPv6")
"""Supported address families, in order of preference for a pod with both."""


class Part(BaseModel):
    """A part of a response of the API."""

    # Absent and null mean the same to the API; unused fields are ignored.
    model_config = ConfigDict(frozen=True)


class SliceEndpoint(Part):
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


class SlicePort(Part):
    """A port of all endpoints of a slice; one without a number means all ports."""

    name: str | None = None
    port: int | None = None


class Versioned(Part):
    """An object with a version that a watch can begin from."""

    version: str = Field(min_length=1, validation_alias=AliasPath("metadata", "resourceVersion"))


class EndpointSlice(Versioned):
    """Some of a Service's endpoints, all with the same ports and address family."""

    name: str = Field(validation_alias=AliasPath("metadata", "name"))
    service: str = Field(
        default="", validation_alias=AliasPath("metadata", "labels", SERVICE_LABEL)
    )
    family: str = Field(alias="addressType")
    endpoints: tuple[SliceEndpoint, ...] | None = None
    ports: tuple[SlicePort, ...] | None = None


class _Entry(NamedTuple):
    """One address of a pod."""

    family: str
    endpoint: Endpoint
    takes_traffic: bool


@dataclass(frozen=True)
class SlicePods:
    """The pods of a slice."""

    pool: Pool
    pods: Mapping[str, tuple[_Entry, ...]]
    """Addresses of each pod, by its uid, or by its address if it has none."""
    flaws: frozenset[str] = frozenset()
    """Descriptions of the slice's invalid parts."""

    @staticmethod
    def of(each: EndpointSlice, pool: Pool) -> SlicePods:
        """Return the pods of a slice, whose Service is that of `pool`."""
        where = f"EndpointSlice {each.name}"
        if not each.endpoints:
            return SlicePods(pool, {})
        port = next((it.port for it in each.ports or () if it.name == PORT_NAME), None)
        if each.family not in _FAMILIES:
            # Envoy doesn't resolve host names of endpoints.
            flaw = f"{where}: addresses of the type {each.family} are not supported"
            return SlicePods(pool, {}, frozenset({flaw}))
        if port is None:
            return SlicePods(pool, {}, frozenset({f"{where}: no port is called {PORT_NAME!r}"}))
        pods: dict[str, tuple[_Entry, ...]] = {}
        flaws = set()
        for found in each.endpoints:
            try:
                endpoint = Endpoint.checked(found.addresses[0], port)
            except ValueError as error:
                flaws.add(f"{where}: {error}")
            else:
                pod = found.pod or endpoint.host
                entry = _Entry(each.family, endpoint, found.takes_traffic)
                pods[pod] = (*pods.get(pod, ()), entry)
        return SlicePods(pool, pods, frozenset(flaws))


def merged(slices: Iterable[SlicePods], pools: Iterable[Pool]) -> tuple[Endpoints, frozenset[str]]:
    """Return the pods that take traffic, by pool, and descriptions of the slices' invalid parts.

    A pod that is in several slices, because it moves between them or has addresses of both
    families, is returned once, and only if it takes traffic in all of them.

    Args:
        slices: all slices.
        pools: all pools, also those without a slice.
    """
    flaws: set[str] = set()
    pods: dict[Pool, dict[str, tuple[_Entry, ...]]] = {pool: {} for pool in pools}
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
    return endpoints, frozenset(flaws)


def _preferred(entries: tuple[_Entry, ...]) -> Iterable[Endpoint]:
    """Return a pod's addresses of the preferred family; none if it takes no traffic."""
    if len(entries) == 1:
        [entry] = entries
        return (entry.endpoint,) if entry.takes_traffic else ()
    if not all(entry.takes_traffic for entry in entries):
        return ()
    preferred = min((entry.family for entry in entries), key=_FAMILIES.index)
    return {entry.endpoint for entry in entries if entry.family == preferred}
