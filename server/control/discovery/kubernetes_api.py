"""List and watch EndpointSlices by the official client of the Kubernetes API."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.config import incluster_config
from pydantic import AliasPath, BaseModel, Field, ValidationError

from vireo.server.control.discovery.kubernetes_settings import KubernetesSettings
from vireo.server.control.discovery.slices import (
    SERVICE_LABEL,
    EndpointSlice,
    SlicePods,
    slice_pods,
)
from vireo.server.errors import VireoError

_OK = 200
_GONE = 410
_MAX_WORDS = 300
"""Maximum characters shown of an error message."""
_MAX_LIST_BYTES = 32 << 20
"""Maximum size of a list: room for tens of thousands of pods."""
_MAX_LINE_BYTES = 4 << 20
"""Maximum size of an event, above that of an object in etcd."""
_MAX_RETRY_AFTER = 60.0
"""Maximum seconds that the API may have us wait."""
_MAX_REFUSAL_BYTES = 64 << 10
_MAX_SLICES = 10_000


class KubernetesApiError(VireoError):
    """A request to the API failed; the message includes the API's."""

    retry_after = 0.0
    """Minimum seconds to wait before the next request, as the API asked when it throttled this."""


class VersionExpiredError(KubernetesApiError):
    """The resource version to watch from has expired: list again."""


class _Versioned(BaseModel):
    version: str = Field(min_length=1, validation_alias=AliasPath("metadata", "resourceVersion"))


class _Listed(_Versioned):
    items: tuple[EndpointSlice, ...] | None


class _Status(BaseModel):
    code: int | None = None
    message: str = ""


class _Change(BaseModel):
    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]
    object: dict[str, Any]


class SliceView:
    """The slices of some Services, as last received from the API."""

    def __init__(self, api: Any, namespace: str, settings: KubernetesSettings) -> None:
        """Start empty; `api` is the client's API of EndpointSlices."""
        self._api = api
        self._namespace = namespace
        self._settings = settings
        self._pools = settings.pools
        self._selector = f"{SERVICE_LABEL} in ({','.join(sorted(self._pools))})"
        self._version = ""
        self.slices: dict[str, SlicePods] = {}
        """What each slice says, by its name."""
        self.followed = False
        """Whether a watch has started, which keeps them up to date."""

    async def list(self) -> None:
        """List all current slices.

        Raises:
            KubernetesApiError: the request failed; the view is unchanged.
        """
        seconds = self._settings.request_timeout
        with _explained("listing"):
            async with asyncio.timeout(seconds), await self._request(seconds) as response:
                body = await _body(response, _MAX_LIST_BYTES)
            if len(body) > _MAX_LIST_BYTES:
                raise KubernetesApiError(f"the list has more than {_MAX_LIST_BYTES} bytes")
            listed = _Listed.model_validate_json(body)
        self.slices = {}
        for each in listed.items or ():
            self._put(each)
        self._version = listed.version

    async def watch(self) -> AsyncGenerator[bool, None]:
        """Apply changes since the current version, until the API ends the watch.

        Yields:
            False once the watch has started, and True after changes or bookmarks: those that
            arrive together are applied together, so that a burst can't keep the process busy.

        Raises:
            KubernetesApiError: the watch failed, or timed out.
            VersionExpiredError: the current version has expired.
        """
        first, whole = self._settings.request_timeout, self._settings.watch_seconds
        with _explained("watching"):
            async with asyncio.timeout(first):
                response = await self._request(
                    whole + first,
                    watch=True,
                    allow_watch_bookmarks=True,
                    resource_version=self._version,
                    timeout_seconds=whole,
                )
            async with response:
                self.followed = True
                yield False
                rest = b""
                while received := await response.content.readany():
                    *lines, rest = (rest + received).split(b"\n")
                    for line in lines:
                        self._take(_Change.model_validate_json(line))
                    if len(rest) > _MAX_LINE_BYTES:
                        raise KubernetesApiError(f"an event has more than {_MAX_LINE_BYTES} bytes")
                    if lines:
                        yield True
                if rest:
                    self._take(_Change.model_validate_json(rest))
                    yield True

    def _take(self, change: _Change) -> None:
        if change.type == "ERROR":
            status = _Status.model_validate(change.object)
            raise _refusal(status.code or 0, status.message)
        self._version = _Versioned.model_validate(change.object).version
        if change.type == "BOOKMARK":
            return
        received = EndpointSlice.model_validate(change.object)
        if change.type == "DELETED":
            self.slices.pop(received.name, None)
            return
        self._put(received)
        if len(self.slices) > _MAX_SLICES:
            raise KubernetesApiError(f"there are more than {_MAX_SLICES} EndpointSlices")

    def _put(self, received: EndpointSlice) -> None:
        pool = self._pools.get(received.service)
        if pool is None:
            self.slices.pop(received.name, None)
            return
        self.slices[received.name] = slice_pods(received, pool, self._settings.port_name)

    async def _request(self, seconds: float, **query: object) -> aiohttp.ClientResponse:
        """Return the response, once it has started, of a request with a timeout of `seconds`."""
        # Without preloading the body, since a watch is endless; the client then skips the status.
        response: aiohttp.ClientResponse = (
            await self._api.list_namespaced_endpoint_slice_without_preload_content(
                self._namespace,
                label_selector=self._selector,
                _request_timeout=float(seconds),
                **query,
            )
        )
        if response.status == _OK:
            return response
        async with response:
            refusal = _refusal(response.status, _words(await _body(response, _MAX_REFUSAL_BYTES)))
            refusal.retry_after = _seconds(response.headers.get("Retry-After", ""))
            raise refusal


@asynccontextmanager
async def slice_view(settings: KubernetesSettings) -> AsyncIterator[SliceView]:
    """Open an empty view on a connection of its own, with freshly read credentials.

    Raises:
        KubernetesApiError: the API's address or credentials are missing.
    """
    with _explained("reading the configuration"):
        configuration = client.Configuration()
        try:
            namespace = await _configure(configuration, settings.config)
        except Exception as error:
            # The client doesn't validate a kubeconfig, so a malformed one can raise anything.
            raise KubernetesApiError(f"{type(error).__name__}: {error}") from error
        api_client = client.ApiClient(configuration)
        api = client.DiscoveryV1Api(api_client)
    async with api_client:
        yield SliceView(api, settings.namespace or namespace, settings)


async def _configure(configuration: Any, path: Path | None) -> str:
    """Set the API's address and credentials, and return the namespace that comes with them."""
    if path is None and incluster_config.SERVICE_HOST_ENV_NAME in os.environ:
        config.load_incluster_config(client_configuration=configuration)
        token = Path(incluster_config.SERVICE_TOKEN_FILENAME)
        return token.with_name("namespace").read_text().strip()
    loader = await config.load_kube_config(
        config_file=None if path is None else str(path),
        client_configuration=configuration,
        persist_config=False,
    )
    context: Mapping[str, Any] = loader.current_context["context"]
    return str(context.get("namespace") or "default")


@contextmanager
def _explained(doing: str) -> Iterator[None]:
    """Convert all errors of a request to KubernetesApiError, without credentials."""
    try:
        yield
    except KubernetesApiError as error:
        explained = type(error)(f"{doing}: {error}")
        explained.retry_after = error.retry_after
        raise explained from error
    except TimeoutError as error:
        raise KubernetesApiError(f"{doing}: the API has not answered in time") from error
    except (aiohttp.ClientError, client.ApiException, OSError, ValueError) as error:
        # ValueError is an invalid response.
        raise KubernetesApiError(f"{doing}: {type(error).__name__}: {error}") from error


async def _body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Return a response's body, truncated at one byte more than `max_bytes`."""
    try:
        return await response.content.readexactly(max_bytes + 1)
    except asyncio.IncompleteReadError as error:
        return error.partial


def _words(body: bytes) -> str:
    """Return a Status's message, or the whole body if it isn't one, for example a proxy's."""
    try:
        return _Status.model_validate_json(body).message
    except ValidationError:
        return " ".join(body.decode(errors="replace").split())


def _seconds(retry_after: str) -> float:
    """Return the seconds that a Retry-After header asks for; 0 if it has none, as with a date."""
    text = retry_after.strip()
    return min(float(text), _MAX_RETRY_AFTER) if text.isascii() and text.isdecimal() else 0.0


def _refusal(status: int, words: str) -> KubernetesApiError:
    kind = VersionExpiredError if status == _GONE else KubernetesApiError
    return kind(f"{status}: {words[:_MAX_WORDS]}")
