"""Adds what is generated from the protos of the checkout to the client's package."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parents[2]))

from protos.python_client import FOLDER, generate_client


class GeneratedHook(BuildHookInterface[Any]):
    """Generates before files are collected."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generates to a folder of its own; for an editable install to where that reads it."""
        if version == "editable":
            generate_client()
            return
        self._scratch = tempfile.TemporaryDirectory()
        folder = Path(self._scratch.name) / FOLDER.name
        generate_client(folder)
        build_data["force_include"][str(folder)] = f"vireo_client/{FOLDER.name}"
