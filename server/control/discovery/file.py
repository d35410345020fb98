"""Pods from a JSON or YAML file that is watched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import yaml
from pydantic import ValidationError

from server.control.discovery.document import EndpointsDocument
from server.control.discovery.source import Attempts
from server.control.mesh import Endpoints
from server.errors import VireoError

_POLL_SECONDS = 0.1


class EndpointsFileError(VireoError):
    """The file of endpoints can't be used; the message names what is wrong with it."""


class FileDiscovery:
    """The pods that a file lists. Replace the file by a rename, so that it is never half there."""

    def __init__(self, path: Path) -> None:
        """Takes the file's path; nothing is read yet."""
        self.attempts = Attempts("file")
        self._path = path

    async def watch(self) -> AsyncIterator[Endpoints]:
        """The pods, and again after each change of the file; bad content is reported, not given."""
        known: Endpoints | None = None
        text: bytes | None = None
        while True:
            try:
                fresh = await asyncio.to_thread(self._path.read_bytes)
                endpoints = known if fresh == text else parse(fresh, self._path)
                text = fresh
                self.attempts.succeeded()
                if endpoints is not None and endpoints != known:
                    known = endpoints
                    yield endpoints
            except (OSError, EndpointsFileError) as error:
                # Declared policy: what can't be read takes no pod away.
                self.attempts.failed(str(error))
            await asyncio.sleep(_POLL_SECONDS)


def parse(text: bytes, path: Path) -> Endpoints:
    """The pods that a file's text lists; JSON is YAML too.

    Raises:
        EndpointsFileError: it is no such document; names the first thing that is wrong.
    """
    try:
        document = EndpointsDocument.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise EndpointsFileError(f"{path} is neither JSON nor YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the document"
        raise EndpointsFileError(f"{path}: {place}: {first['msg']}") from error
    return document.endpoints()
