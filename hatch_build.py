"""Makes the Python stubs and the descriptor set from protos/ whenever the project is built.

Runs on every install, editable ones included, so stubs can't be stale in an environment
that `make setup` made. Nothing that it writes is committed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent))

from protos.generate import generate
from protos.python_client import generate_client


class StubsHook(BuildHookInterface[Any]):
    """Generates what `vireo` links to before files are collected."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Write protos/gen/ afresh, and for an editable install what the Python client has."""
        generate()
        if version == "editable":
            generate_client()
