"""Discovery of pods by the EndpointSlices of a Kubernetes cluster: listed once, then watched."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
import structlog
from kubernetes.aio import client, config
from kubernetes.aio.config import incluster_config
from pydantic import ValidationError

from vireo.server.backoff import backoff
from vireo.server.control.attempts import Attempts
from vireo.server.control.mesh import Endpoints
from vireo.server.control.settings import KubernetesSettings
from vireo.server.control.slices import (
    SERVICE_LABEL,
    EndpointSlice,
    Part,
    SlicePods,
    Versioned,
    merged,
)
from vireo.server.errors import VireoError

log = structlog.get_logger()

_REQUEST_SECONDS = 5.0
"""Maximum seconds to wait for a response."""
_WATCH_SECONDS = 30
"""Seconds that one watch lasts; a silently lost connection is detected after them."""
_MIN_WATCH_SECONDS = 1.0
"""A watch without events that ends earlier counts as a failure."""
_FIRST_RETRY_SECONDS, _MAX_BACKOFF_SECONDS = 0.25, 10.0
_MAX_RETRY_AFTER = 60.0
"""Maximum seconds that the API may have us wait."""
_MAX_LIST_BYTES = 32 << 20
"""Maximum size of a list: room for tens of thousands of pods."""
_MAX_LINE_BYTES = 4 << 20
"""Maximum size of an event, above that of an object in etcd."""
_MAX_WORDS = 300
"""Maximum characters shown of an error message."""


class KubernetesApiError(VireoError):
    """A request to the API failed; the message includes the API's."""

    retry_after = 0.0
    """Minimum seconds to wait before the next request, as the API asked when it throttled this."""


class VersionExpiredError(KubernetesApiError):
    """The resource version to watch from has expired: list again."""


class _Listed(Versioned):
    items: tuple[EndpointSlice, ...] | None


class _Status(Part):
    code: int | None = None
    message: str = ""


class _Change(Part):
    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]
    object: dict[str, Any]


class KubernetesDiscovery:
    """The pods of the configured Services."""

    def __init__(self, settings: KubernetesSettings) -> None:
        """Hold the settings; nothing is requested yet."""
        self.attempts = Attempts("kubernetes")
        self._settings = settings
        self._pools = settings.pools
        self._failures = 0
        """Number of consecutive failures."""
        self._slices: dict[str, SlicePods] = {}
        """The pods of each slice as last received, by its name."""
        self._version = ""
        """The resource version to watch from."""
        self._known: Endpoints | None = None

    async def follow(self, changed: Callable[[Endpoints], None]) -> None:
        """Call `changed` with the pods that are ready, and again after each change."""
        while True:
            pause = 0.0
            # Declared policy: an API that can't be reached removes no pod.
            with self.attempts.contained():
                try:
                    await self._list_and_watch(changed)
                except VersionExpiredError as error:
                    # Expected after a long interruption of a watch: list again.
                    log.info("relisting pods", source=self.attempts.source, reason=str(error))
                except KubernetesApiError as error:
                    # A throttled API that is asked again too soon stays throttled.
                    pause = error.retry_after
                    raise
            self._failures += 1
            delay = backoff(self._failures, _FIRST_RETRY_SECONDS, _MAX_BACKOFF_SECONDS)
            await asyncio.sleep(max(random.uniform(delay / 2, delay), pause))  # noqa: S311

    async def _list_and_watch(self, changed: Callable[[Endpoints], None]) -> None:
        """Follow the API on a new connection, with freshly read credentials, until it fails.

        Raises:
            KubernetesApiError: it has failed.
        """
        with _explained("reading the configuration"):
            configuration = client.Configuration()
            try:
                namespace = await _configure(configuration, self._settings.config)
            except Exception as error:
                # The client doesn't validate a kubeconfig, so a malformed one can raise anything.
                raise KubernetesApiError(f"{type(error).__name__}: {error}") from error
            api_client = client.ApiClient(configuration)
        async with api_client:
            # Without preloading the body, since a watch is endless; it then skips the status, too.
            api = client.DiscoveryV1Api(api_client)
            request = _Request(
                api.list_namespaced_endpoint_slice_without_preload_content,
                self._settings.namespace or namespace,
                f"{SERVICE_LABEL} in ({','.join(sorted(self._pools))})",
            )
            with _explained("listing"):
                await self._list(request)
            self._publish(changed)
            with _explained("watching"):
                while True:
                    await self._watch(request, changed)

    async def _list(self, request: _Request) -> None:
        """Replace the slices by the current ones."""
        async with asyncio.timeout(_REQUEST_SECONDS):
            async with await request.send(_REQUEST_SECONDS) as response:
                body = await _body(response, _MAX_LIST_BYTES)
        if len(body) > _MAX_LIST_BYTES:
            raise KubernetesApiError(f"the list has more than {_MAX_LIST_BYTES} bytes")
        listed = _Listed.model_validate_json(body)
        self._slices, self._version = {}, listed.version
        for each in listed.items or ():
            self._put(each)

    async def _watch(self, request: _Request, changed: Callable[[Endpoints], None]) -> None:
        """Apply changes since the current version, until the API ends the watch."""
        began, received = time.monotonic(), False
        async with asyncio.timeout(_REQUEST_SECONDS):
            response = await request.send(
                _WATCH_SECONDS + _REQUEST_SECONDS,
                watch=True,
                allow_watch_bookmarks=True,
                resource_version=self._version,
                timeout_seconds=_WATCH_SECONDS,
            )
        async with response:
            self._publish(changed, followed=True)
            rest = b""
            while chunk := await response.content.readany():
                *lines, rest = (rest + chunk).split(b"\n")
                # Those that arrive together are applied together: a burst must not keep us busy.
                for line in lines:
                    self._apply(_Change.model_validate_json(line))
                if len(rest) > _MAX_LINE_BYTES:
                    raise KubernetesApiError(f"an event has more than {_MAX_LINE_BYTES} bytes")
                if lines:
                    received, self._failures = True, 0
                    self._publish(changed, followed=True)
            if rest:
                self._apply(_Change.model_validate_json(rest))
        if not received and time.monotonic() - began < _MIN_WATCH_SECONDS:
            # Restarting such watches without a backoff would flood the API.
            raise KubernetesApiError("the API ends watches as soon as they begin")
        self._failures = 0
        self._publish(changed, followed=True)

    def _apply(self, change: _Change) -> None:
        if change.type == "ERROR":
            status = _Status.model_validate(change.object)
            raise _refusal(status.code or 0, status.message)
        self._version = Versioned.model_validate(change.object).version
        if change.type == "BOOKMARK":
            return
        received = EndpointSlice.model_validate(change.object)
        if change.type == "DELETED":
            self._slices.pop(received.name, None)
        else:
            self._put(received)

    def _put(self, received: EndpointSlice) -> None:
        pool = self._pools.get(received.service)
        if pool is None:
            self._slices.pop(received.name, None)
        else:
            self._slices[received.name] = SlicePods.of(received, pool)

    def _publish(self, changed: Callable[[Endpoints], None], *, followed: bool = False) -> None:
        """Pass on the pods if they have changed; `followed` once a watch keeps them up to date."""
        endpoints, flaws = merged(self._slices.values(), self._pools.values())
        if followed:
            self.attempts.succeeded(flaws)
        if endpoints != self._known:
            changed(endpoints)
            self._known = endpoints


@dataclass(frozen=True)
class _Request:
    """A request for slices: the client's call and what all of them have in common."""

    call: Callable[..., Any]
    namespace: str
    selector: str

    async def send(self, seconds: float, **query: object) -> aiohttp.ClientResponse:
        """Return the response, once it has started, of a request with a timeout of `seconds`."""
        response: aiohttp.ClientResponse = await self.call(
            self.namespace, label_selector=self.selector, _request_timeout=float(seconds), **query
        )
        if response.status == 200:
            return response
        async with response:
            body = await _body(response, 64 << 10)
            refusal = _refusal(response.status, _words(body))
            refusal.retry_after = _seconds(response.headers.get("Retry-After", ""))
            raise refusal


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
    kind = VersionExpiredError if status == 410 else KubernetesApiError
    return kind(f"{status}: {words[:_MAX_WORDS]}")
