"""A Kubernetes API on loopback that plays back recordings, and a source that follows it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml
from aiohttp import web

from vireo.server.control.kubernetes import KubernetesDiscovery
from vireo.server.control.mesh import POOLS, Endpoint, Endpoints, Pool
from vireo.server.control.settings import KubernetesSettings

_RECORDED = Path(__file__).parents[1] / "server" / "control" / "recorded"
_PATH = "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"


def recorded(name: str) -> bytes:
    """The content of a recording."""
    return (_RECORDED / name).read_bytes()


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


Fault: TypeAlias = tuple[int, bytes] | Literal["hang", "trickle", "cut"]
"""What happens instead of a list: a status and body, none, one that never ends, or the connection
is cut."""


@dataclass(frozen=True)
class Asked:
    """A request that has come."""

    namespace: str
    query: dict[str, str]
    token: str


@dataclass
class RecordedApi:
    """What the API answers, which a test may change at any time."""

    listing: bytes = field(default_factory=lambda: recorded("list.json"))
    fault: Fault | None = None
    tokens: frozenset[str] | None = None
    """Tokens that are let in; None lets in everybody."""
    asked: list[Asked] = field(default_factory=list)
    port: int = 0

    @asynccontextmanager
    async def running(self, context: ssl.SSLContext | None = None) -> AsyncIterator[RecordedApi]:
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
            yield self
        finally:
            await runner.cleanup()

    def kubeconfig(self, folder: Path) -> Path:
        """A kubeconfig that leads here, in the namespace "vireo"."""
        return write_kubeconfig(folder / "kubeconfig", f"http://127.0.0.1:{self.port}", "token")

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        token = request.headers.get("Authorization", "").partition(" ")[2]
        self.asked.append(Asked(request.match_info["namespace"], dict(request.query), token))
        fault = self.fault
        if self.tokens is not None and token not in self.tokens:
            fault = 401, b'{"message": "Unauthorized"}'
        if isinstance(fault, tuple):
            return web.Response(status=fault[0], body=fault[1])
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "trickle":
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b" ")
                await asyncio.sleep(0.02)
        if fault == "cut":
            assert request.transport is not None
            request.transport.abort()
        return web.Response(body=self.listing, content_type="application/json")


CANDIDATE, GATEWAY, RANKING = Pool("candidate"), Pool("gateway"), Pool("ranking")


def pods(port: int, *hosts: str) -> frozenset[Endpoint]:
    """Pods of the recorded cluster."""
    return frozenset(Endpoint(f"10.244.{host}", port) for host in hosts)


LISTED: Endpoints = {
    **dict.fromkeys(POOLS, frozenset[Endpoint]()),
    CANDIDATE: pods(8120, "1.21", "3.23"),
    GATEWAY: pods(8140, "1.11", "2.12"),
    RANKING: pods(8130, "1.31", "2.32"),
}
"""What list.json comes to."""
LISTED_LATER: Endpoints = {
    **LISTED,
    CANDIDATE: pods(8120, "2.22"),
    GATEWAY: pods(8140, "1.11", "3.13"),
    RANKING: pods(8130, "1.31"),
}
"""What list_later.json comes to."""


Logs: TypeAlias = list[MutableMapping[str, Any]]


def reasons(logs: Logs) -> list[str]:
    """The reason of each failure that was logged."""
    return [str(entry["reason"]) for entry in logs if entry["log_level"] == "error"]


@dataclass
class Following:
    """A source that is followed in the background."""

    discovery: KubernetesDiscovery
    published: list[Endpoints] = field(default_factory=list)

    @property
    def failures(self) -> int:
        return self.discovery.attempts.failures


@asynccontextmanager
async def following(settings: KubernetesSettings) -> AsyncIterator[Following]:
    follower = Following(KubernetesDiscovery(settings))
    running = asyncio.create_task(follower.discovery.follow(follower.published.append))
    try:
        yield follower
        assert not running.done(), "it goes on for as long as it is asked"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
