"""Discovery of pods by the EndpointSlices of a Kubernetes cluster, which are listed every second.

A list from the API server's cache is cheap. Compared with a watch it has no version that expires,
and no connection that may be lost in silence.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeAlias

import urllib3
from kubernetes import client, config
from kubernetes.config import incluster_config
from pydantic import AliasPath, BaseModel, ConfigDict, Field, ValidationError

from vireo.server.control.attempts import Attempts, follow, read_body
from vireo.server.control.mesh import Endpoint, Endpoints, Pool, with_slates
from vireo.server.control.settings import KubernetesSettings
from vireo.server.errors import VireoError

SERVICE_LABEL = "kubernetes.io/service-name"
"""Label of a slice with the name of its Service."""
PORT_NAME = "grpc"
"""Name of the port that the pods of all Services serve on."""
_FAMILIES = ("IPv4", "IPv6")
"""Supported address families, in order of preference for a pod with both."""
_POLL_SECONDS = 1.0
_REQUEST_SECONDS = 5.0
"""Maximum seconds to wait for a whole body."""
_MAX_BYTES = 32 << 20
"""Maximum size of a list: room for tens of thousands of pods."""
_MAX_WORDS = 300
"""Maximum characters shown of an error message."""


class _Part(BaseModel):
    """A part of a response of the API."""

    # Absent and null mean the same to the API; unused fields are ignored.
    model_config = ConfigDict(frozen=True)


class _SliceEndpoint(_Part):
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


class _SlicePort(_Part):
    name: str | None = None
    port: int | None = None
    """None for all ports."""


class _Slice(_Part):
    """Some of a Service's endpoints, all with the same ports and address family."""

    name: str = Field(validation_alias=AliasPath("metadata", "name"))
    service: str = Field(
        default="", validation_alias=AliasPath("metadata", "labels", SERVICE_LABEL)
    )
    family: str = Field(alias="addressType")
    endpoints: tuple[_SliceEndpoint, ...] | None = None
    ports: tuple[_SlicePort, ...] | None = None


class _List(_Part):
    items: tuple[_Slice, ...] | None


Found: TypeAlias = tuple[Endpoints, frozenset[str]]
"""The pods that take traffic, by pool, and what is invalid, which is left out."""


class KubernetesDiscovery:
    """The pods of the configured Services."""

    def __init__(self, settings: KubernetesSettings) -> None:
        """Hold the settings; nothing is requested yet."""
        self.attempts = Attempts("kubernetes")
        self._settings = settings
        self._list: Callable[[], urllib3.HTTPResponse] | None = None
        """Requests the list on a connection that is kept; None after a failure."""
        self._latest: tuple[bytes | None, Found] = None, ({}, frozenset())
        """The items of the latest list, and what they came to."""

    async def follow(self, changed: Callable[[Endpoints], None]) -> None:
        """Call `changed` with the pods that take traffic, and again after each change."""
        await follow(self.attempts, self._read, changed, _POLL_SECONDS)

    def _read(self) -> Found:
        """Return the pods; after a failure on a new connection, with freshly read credentials.

        Raises:
            VireoError: the API can't be asked, or its response isn't a list.
        """
        request, self._list = self._list, None
        end = time.monotonic() + _REQUEST_SECONDS
        try:
            request = request or self._connect()
            response = request()
            body = read_body(response, _MAX_BYTES, end)
            response.release_conn()
        except client.ApiException as error:
            words = _words(error.body or "")
            raise VireoError(f"listing EndpointSlices: {error.status}: {words}") from error
        except Exception as error:
            # The client doesn't validate a kubeconfig: a malformed one can make it raise anything.
            reason = f"{type(error).__name__}: {error}"
            raise VireoError(f"listing EndpointSlices: {reason[:_MAX_WORDS]}") from error
        # The version before the items changes with slices of any Service.
        items = body.partition(b'"items":')[2] or body
        if items != self._latest[0]:
            try:
                self._latest = items, found(body, self._settings.pools)
            except ValidationError as error:
                words = str(error)[:_MAX_WORDS]
                raise VireoError(f"listing EndpointSlices: no list: {words}") from error
        self._list = request
        return self._latest[1]

    def _connect(self) -> Callable[[], urllib3.HTTPResponse]:
        settings, path = self._settings, self._settings.config
        configuration = client.Configuration()
        configuration.retries = False  # they would wait for as long as the API asks
        if path is None and incluster_config.SERVICE_HOST_ENV_NAME in os.environ:
            config.load_incluster_config(client_configuration=configuration)
            token = Path(incluster_config.SERVICE_TOKEN_FILENAME)
            namespace = token.with_name("namespace").read_text().strip()
        else:
            file = None if path is None else str(path)
            config.load_kube_config(file, client_configuration=configuration, persist_config=False)
            _, context = config.list_kube_config_contexts(file)
            namespace = context["context"].get("namespace") or "default"
        api = client.DiscoveryV1Api(client.ApiClient(configuration))
        selector = f"{SERVICE_LABEL} in ({','.join(sorted(settings.pools))})"

        def request() -> urllib3.HTTPResponse:
            response: urllib3.HTTPResponse = api.list_namespaced_endpoint_slice(
                settings.namespace or namespace,
                label_selector=selector,
                resource_version="0",  # from the API server's cache
                _preload_content=False,
                _request_timeout=_REQUEST_SECONDS,
            )
            return response

        return request


def found(body: bytes, pools: Mapping[str, Pool]) -> Found:
    """Return what a list of slices, as JSON, comes to.

    A pod that is in several slices, because it moves between them or has addresses of both
    families, is returned once, and only if it takes traffic in all of them.

    Args:
        body: the API's response.
        pools: all pools, also those without a slice, and SLATE, by the name of their Service.

    Raises:
        ValidationError: it isn't a list.
    """
    flaws: set[str] = set()
    pods: dict[Pool, dict[str, list[_Entry]]] = {pool: {} for pool in pools.values()}
    for each in _List.model_validate_json(body).items or ():
        if each.service in pools:
            for pod, entry in _entries(each, flaws):
                pods[pools[each.service]].setdefault(pod, []).append(entry)
    endpoints = {
        pool: frozenset(endpoint for entries in each.values() for endpoint in _preferred(entries))
        for pool, each in pods.items()
    }
    return with_slates(endpoints), frozenset(flaws)


class _Entry(NamedTuple):
    """One address of a pod."""

    family: str
    endpoint: Endpoint
    takes_traffic: bool


def _entries(each: _Slice, flaws: set[str]) -> Iterable[tuple[str, _Entry]]:
    """Yield the addresses of a slice, by their pod's uid, or by the address if it has none."""
    port = next((it.port for it in each.ports or () if it.name == PORT_NAME), None)
    flaw = ""
    if each.family not in _FAMILIES:
        # Envoy doesn't resolve host names of endpoints.
        flaw = f"addresses of the type {each.family} are not supported"
    elif port is None:
        flaw = f"no port is called {PORT_NAME!r}"
    if port is None or flaw:
        if each.endpoints:
            flaws.add(f"EndpointSlice {each.name}: {flaw}")
        return
    for it in each.endpoints or ():
        try:
            endpoint = Endpoint.checked(it.addresses[0], port)
        except ValueError as error:
            flaws.add(f"EndpointSlice {each.name}: {error}")
        else:
            yield it.pod or endpoint.host, _Entry(each.family, endpoint, it.takes_traffic)


def _preferred(entries: list[_Entry]) -> Iterable[Endpoint]:
    """Return a pod's addresses of the preferred family; none if it takes no traffic."""
    if not all(entry.takes_traffic for entry in entries):
        return ()
    preferred = min((entry.family for entry in entries), key=_FAMILIES.index)
    return {entry.endpoint for entry in entries if entry.family == preferred}


def _words(body: str) -> str:
    """Return a Status's message, or the whole body if it isn't one, for example a proxy's."""
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        body = str(json.loads(body)["message"])
    return " ".join(body.split())[:_MAX_WORDS]
