"""A Kubernetes API on loopback that plays back recordings of tests/server/control/discovery."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml
from aiohttp import web

_RECORDED = Path(__file__).parents[1] / "server" / "control" / "discovery" / "recorded"
_PATH = "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"


def recorded(name: str) -> bytes:
    """The content of a recording."""
    return (_RECORDED / name).read_bytes()


def recorded_lines(name: str) -> list[bytes]:
    """The events of a recorded watch, one line each."""
    return recorded(name).splitlines(keepends=True)


def write_kubeconfig(
    path: Path, url: str, token: str, namespace: str = "vireo", **cluster: str
) -> Path:
    """Write a kubeconfig that leads to `url`, with further fields of its cluster."""
    context = {"cluster": "here", "user": "here", "namespace": namespace}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": url, **cluster}}],
        "users": [{"name": "here", "user": {"token": token}}],
        "contexts": [{"name": "here", "context": context}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


@dataclass(frozen=True)
class Refusal:
    """An answer that is an error."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


Fault: TypeAlias = Refusal | Literal["hang", "cut"]
"""What happens instead of an answer: it is refused, never given, or the connection is cut."""


@dataclass(frozen=True)
class Asked:
    """A request that has come."""

    namespace: str
    query: dict[str, str]
    token: str

    @property
    def watches(self) -> bool:
        """Whether it asks for a watch."""
        return "watch" in self.query


@dataclass
class RecordedApi:
    """What the API answers, which a test may change at any time."""

    listing: bytes = field(default_factory=lambda: recorded("list.json"))
    """What a list is answered with."""
    list_fault: Fault | None = None
    watch_fault: Fault | None = None
    tokens: frozenset[str] | None = None
    """Tokens that are let in; None lets in everybody."""
    keeps_time: bool = True
    """Whether a watch ends when the time that the client has given is over."""
    asked: list[Asked] = field(default_factory=list)
    open_watches: list[asyncio.Queue[bytes | None]] = field(default_factory=list)
    """What each watch that lasts is to send; None ends it."""
    port: int = 0

    @property
    def lists(self) -> list[Asked]:
        """The lists that were asked for."""
        return [each for each in self.asked if not each.watches]

    @property
    def watches(self) -> list[Asked]:
        """The watches that were asked for."""
        return [each for each in self.asked if each.watches]

    def send(self, *lines: bytes) -> None:
        """Have every watch that lasts send lines."""
        for queue in self.open_watches:
            for line in lines:
                queue.put_nowait(line)

    def end_watches(self) -> None:
        """End every watch as the API does after a time."""
        for queue in self.open_watches:
            queue.put_nowait(None)

    @asynccontextmanager
    async def running(self, context: ssl.SSLContext | None = None) -> AsyncIterator[None]:
        """Have the API answer; on the port that it had before, if it was running before."""
        application = web.Application()
        application.router.add_get(_PATH, self._answer)
        runner = web.AppRunner(application, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        try:
            site = web.TCPSite(
                runner, "127.0.0.1", self.port, ssl_context=context, reuse_address=True
            )
            await site.start()
            self.port = runner.addresses[0][1]
            yield
        finally:
            await runner.cleanup()

    def kubeconfig(self, folder: Path, token: str = "token") -> Path:
        """A kubeconfig that leads here, in the namespace "vireo"."""
        return write_kubeconfig(folder / "kubeconfig", f"http://127.0.0.1:{self.port}", token)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        token = request.headers.get("Authorization", "").partition(" ")[2]
        asked = Asked(request.match_info["namespace"], dict(request.query), token)
        self.asked.append(asked)
        fault = self.watch_fault if asked.watches else self.list_fault
        if self.tokens is not None and token not in self.tokens:
            fault = Refusal(401, recorded("unauthorized.json"))
        if isinstance(fault, Refusal):
            return web.Response(status=fault.status, body=fault.body, headers=fault.headers)
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "cut":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if not asked.watches:
            return web.Response(body=self.listing, content_type="application/json")
        return await self._watch(request, float(asked.query["timeoutSeconds"]))

    async def _watch(self, request: web.Request, seconds: float) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "application/json"})
        stream.enable_chunked_encoding()
        await stream.prepare(request)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.open_watches.append(queue)
        try:
            async with asyncio.timeout(seconds if self.keeps_time else None):
                while (line := await queue.get()) is not None:
                    await stream.write(line)
        except TimeoutError:
            pass  # the end of an ordinary watch
        finally:
            self.open_watches.remove(queue)
        return stream


def endpoint_slice(
    service: str, version: int, port: int, conditions: Mapping[str, Mapping[str, bool]]
) -> dict[str, Any]:
    """A slice that is all of a Service.

    Args:
        service: its name.
        version: the slice's version.
        port: the port called "grpc".
        conditions: those of each pod, by its IPv4 address.
    """
    return {
        "metadata": {
            "name": f"{service}-abcde",
            "namespace": "vireo",
            "resourceVersion": str(version),
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [address],
                "conditions": each,
                "targetRef": {"kind": "Pod", "uid": f"uid-of-{address}"},
            }
            for address, each in conditions.items()
        ],
        "ports": [{"name": "grpc", "protocol": "TCP", "port": port}],
    }


def modified(changed: dict[str, Any]) -> bytes:
    """Return the event of a modified slice."""
    return json.dumps({"type": "MODIFIED", "object": changed}).encode() + b"\n"


@asynccontextmanager
async def recorded_api() -> AsyncIterator[RecordedApi]:
    """An API that answers."""
    api = RecordedApi()
    async with api.running():
        yield api
