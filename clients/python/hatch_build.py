"""Adds what is generated from the protos of the checkout to the client's package."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent


class GeneratedHook(BuildHookInterface[Any]):
    """Generates before files are collected."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generates to a folder of its own; for an editable install to where that reads it.

        A source distribution has it already, and no protos.
        """
        if (ROOT / "PKG-INFO").exists():
            folder = ROOT / "vireo_client" / "_generated"
            build_data["force_include"][str(folder)] = "vireo_client/_generated"
            return
        sys.path.insert(0, str(ROOT.parents[1]))
        from protos.python_client import FOLDER, generate_client

        if version == "editable":
            generate_client()
            return
        self._scratch = tempfile.TemporaryDirectory()
        folder = Path(self._scratch.name) / FOLDER.name
        generate_client(folder)
        build_data["force_include"][str(folder)] = f"vireo_client/{FOLDER.name}"
