"""Discovery of pods: the document that lists them, in a setting or in a file that is watched."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from vireo.server.control.attempts import Attempts, follow, read_bounded
from vireo.server.control.mesh import POOLS, SLATE, Endpoint, Endpoints, with_slates
from vireo.server.errors import VireoError

_POLL_SECONDS = 1.0
_MAX_BYTES = 1 << 20
"""Maximum size of the file: room for some 40,000 pods."""


class Discovery(Protocol):
    """A source of endpoints."""

    async def follow(self, changed: Callable[[Endpoints], None]) -> None:
        """Call `changed` with all pods, and again on each change, until cancelled.

        Failures are recorded as `Attempts`; the last known pods stay in use.
        """
        ...


@dataclass(frozen=True)
class StaticDiscovery:
    """The pods that a setting lists."""

    endpoints: Endpoints

    async def follow(self, changed: Callable[[Endpoints], None]) -> None:
        """Call `changed` with the pods, once."""
        changed(self.endpoints)
        await asyncio.Event().wait()


class FileDiscovery:
    """The pods that a file lists. Replace the file by a rename, so that it is never incomplete."""

    def __init__(self, path: Path) -> None:
        """Hold the file's path; nothing is read yet."""
        self.attempts = Attempts("file")
        self._path = path
        self._latest: tuple[bytes | None, Endpoints | str] = None, {}
        """The latest content, and its pods or what is wrong with it."""

    async def follow(self, changed: Callable[[Endpoints], None]) -> None:
        """Call `changed` with the pods, and after each change; invalid content is ignored."""
        await follow(self.attempts, self._read, changed, _POLL_SECONDS)

    def _read(self) -> tuple[Endpoints, frozenset[str]]:
        text = read_bounded(self._path, _MAX_BYTES)
        if text != self._latest[0]:
            try:
                self._latest = text, parse(text, self._path)
            except VireoError as error:
                self._latest = text, str(error)
        found = self._latest[1]
        if isinstance(found, str):
            raise VireoError(found)
        return found, frozenset()


def _endpoint(text: str) -> Endpoint:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or len(port) > 5 or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is not address:port")
    return Endpoint.checked(host.removeprefix("[").removesuffix("]"), int(port))


def _checked(text: str) -> str:
    _endpoint(text)
    return text


Address = Annotated[str, AfterValidator(_checked)]


class GatewayPools(BaseModel):
    """The gateways, or the pods of all services, which have a single pool."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    production: tuple[Address, ...] = ()


class InnerPools(GatewayPools):
    """The pods of a service that gateways call."""

    canary: tuple[Address, ...] = ()
    shadow: tuple[Address, ...] = ()
    """Ignored: what lists the pods of an earlier version has this pool until it is upgraded."""


class EndpointsDocument(BaseModel):
    """IP address and port of every pod, by service and pool; an IPv6 address in brackets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slate: GatewayPools = GatewayPools()
    gateway: GatewayPools = GatewayPools()
    candidate: InnerPools = InnerPools()
    ranking: InnerPools = InnerPools()

    def endpoints(self) -> Endpoints:
        """Return the endpoints of each pool."""
        return with_slates(
            {
                pool: frozenset(map(_endpoint, getattr(getattr(self, pool.service), pool.name)))
                for pool in (*POOLS, SLATE)
            }
        )


def parse(text: bytes, path: Path) -> Endpoints:
    """Parse the pods that a file lists, in JSON or YAML.

    Raises:
        VireoError: the document is invalid; the message names the first problem.
    """
    try:
        try:
            content = json.loads(text)
        except ValueError:
            content = yaml.load(text, _Loader)  # noqa: S506 (it is a SafeLoader)
    except Exception as error:
        # Parsers raise more than they declare: ValueError for a date, RecursionError for depth.
        words = f"{type(error).__name__}: {error}"
        raise VireoError(f"{path} is neither JSON nor YAML: {words}") from error
    try:
        document = EndpointsDocument.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the document"
        raise VireoError(f"{path}: {place}: {first['msg']}") from error
    return document.endpoints()


class _Loader(yaml.SafeLoader):
    """YAML loader that rejects aliases, which can expand a small file hugely."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not supported")
        return super().compose_node(parent, index)
