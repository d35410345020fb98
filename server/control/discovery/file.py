"""Discovery of pods by a JSON or YAML file that is watched for changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vireo.server.control.attempts import Attempts, read_bounded
from vireo.server.control.discovery.document import EndpointsDocument
from vireo.server.control.mesh import Endpoints
from vireo.server.errors import VireoError

_POLL_SECONDS = 1.0
_MAX_BYTES = 1 << 20
"""Maximum size of the file: room for some 40,000 pods."""


class EndpointsFileError(VireoError):
    """The file of endpoints is invalid; the message names the problem."""


class FileDiscovery:
    """The pods that a file lists. Replace the file by a rename, so that it is never incomplete."""

    def __init__(self, path: Path) -> None:
        """Hold the file's path; nothing is read yet."""
        self.attempts = Attempts("file")
        self._path = path
        self._text: bytes | None = None
        self._found: Endpoints = {}
        self._problem = ""
        """Problem of the last content, so that an invalid file isn't parsed on every poll."""

    async def watch(self) -> AsyncIterator[Endpoints]:
        """Yield the pods, and again after each change; invalid content is reported and ignored."""
        known: Endpoints | None = None
        while True:
            # Declared policy: a file that can't be read removes no pod.
            with self.attempts.contained():
                endpoints = await asyncio.to_thread(self._look)
                self.attempts.succeeded()
                if endpoints != known:
                    known = endpoints
                    yield endpoints
            await asyncio.sleep(self.attempts.pause(_POLL_SECONDS))

    def _look(self) -> Endpoints:
        text = read_bounded(self._path, _MAX_BYTES)
        if text != self._text:
            try:
                self._found, self._problem = parse(text, self._path), ""
            except EndpointsFileError as error:
                self._problem = str(error)
            self._text = text
        if self._problem:
            raise EndpointsFileError(self._problem)
        return self._found


def parse(text: bytes, path: Path) -> Endpoints:
    """Parse the pods that a file lists, in JSON or YAML.

    Raises:
        EndpointsFileError: the document is invalid; the message names the first problem.
    """
    try:
        content = _load(text)
    except Exception as error:
        # Parsers raise more than they declare: ValueError for a date, RecursionError for depth.
        words = f"{type(error).__name__}: {error}"
        raise EndpointsFileError(f"{path} is neither JSON nor YAML: {words}") from error
    try:
        document = EndpointsDocument.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the document"
        raise EndpointsFileError(f"{path}: {place}: {first['msg']}") from error
    return document.endpoints()


class _Loader(yaml.SafeLoader):
    """YAML loader that rejects aliases, which can expand a small file hugely, and repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not supported")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        found = super().construct_mapping(node, deep)
        if len(found) != len(node.value):
            raise yaml.YAMLError(f"duplicate key, {node.start_mark}".strip())
        return found


def _load(text: bytes) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except ValueError:
        return yaml.load(text, _Loader)  # noqa: S506 (it is a SafeLoader)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise yaml.YAMLError("duplicate key")
    return found
