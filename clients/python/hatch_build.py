"""Adds what is generated from the protos to the client's packages: a checkout's, or an sdist's."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_NAME = "vireo_client/_generated"
_GENERATES = [
    "googleapis-common-protos==1.76.0",
    "grpcio==1.85.3",
    "grpcio-tools==1.85.0",
    "mypy-protobuf==5.1.0",
    "protobuf==7.36.2",
    "protobuf-py==0.7.0",
    "protobuf-py-ext==0.7.0",
    "protobuf-py-pure==0.7.0",
    "protovalidate==2.1.0",
    "setuptools==84.2.1",
    "types-protobuf==7.35.1.20260906",
    "typing-extensions==4.16.0",
]
"""What reads the protos of a checkout; nothing that it writes depends on these versions."""


class GeneratedHook(BuildHookInterface[Any]):
    """Generates before files are collected, unless an sdist brings what was generated for it."""

    def dependencies(self) -> list[str]:
        """Return what a build needs beside hatchling."""
        return [] if self._in_sdist() else _GENERATES

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generates to a folder of its own; for an editable install to where that reads it."""
        folder = Path(self.root) / _NAME
        if not self._in_sdist():
            sys.path.insert(0, str(Path(self.root).parents[1]))
            from protos.python_client import generate_client  # the checkout's

            if version == "editable":
                generate_client()
                return
            self._scratch = tempfile.TemporaryDirectory()
            folder = Path(self._scratch.name) / folder.name
            generate_client(folder)
        build_data["force_include"][str(folder)] = _NAME

    def _in_sdist(self) -> bool:
        return (Path(self.root) / "PKG-INFO").exists()
