"""Pods from a JSON or YAML file that is watched."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from server.control.attempts import Attempts
from server.control.bounded_file import read_bounded
from server.control.discovery.document import EndpointsDocument
from server.control.mesh import Endpoints
from server.errors import VireoError

_POLL_SECONDS = 0.1
_MAX_BYTES = 1 << 20
"""Room for some 40,000 pods."""


class EndpointsFileError(VireoError):
    """The file of endpoints can't be used; the message names what is wrong with it."""


class FileDiscovery:
    """The pods that a file lists. Replace the file by a rename, so that it is never half there."""

    def __init__(self, path: Path) -> None:
        """Takes the file's path; nothing is read yet."""
        self.attempts = Attempts("file")
        self._path = path
        self._text: bytes | None = None
        self._found: Endpoints = {}
        self._problem = ""
        """What is wrong with the text: a large file that is wrong isn't parsed in every look."""

    async def watch(self) -> AsyncIterator[Endpoints]:
        """Yield the pods, and again after each change of the file; bad content is reported."""
        known: Endpoints | None = None
        while True:
            # Declared policy: what can't be read takes no pod away.
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
    """Return the pods that a file's text lists; JSON is YAML too.

    Raises:
        EndpointsFileError: it is no such document; names the first thing that is wrong.
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
    """YAML without aliases, by which a small file can stand for a huge one, and repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not supported")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        found = super().construct_mapping(node, deep)
        if len(found) != len(node.value):
            raise yaml.YAMLError(f"a key is there twice, {node.start_mark}".strip())
        return found


def _load(text: bytes) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except ValueError:
        return yaml.load(text, _Loader)  # noqa: S506 (it is a SafeLoader)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise yaml.YAMLError("a key is there twice")
    return found
