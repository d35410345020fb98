"""Makes the Python stubs and the descriptor set from protos/ whenever the project is built.

An editable install reads them where they are generated, in protos/gen; building a wheel changes
nothing in the checkout. Nothing that is generated is committed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent))

from protos.generate import generate, generate_into
from protos.python_client import generate_client


class StubsHook(BuildHookInterface[Any]):
    """Generates what `vireo` links to before files are collected."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generate for a wheel into a folder of its own; for an editable install, in place."""
        if version == "editable":
            generate()
            generate_client()
            return
        self._scratch = tempfile.TemporaryDirectory()
        folder = Path(self._scratch.name) / "gen"
        generate_into(folder)
        for generated in (folder / "vireo").iterdir():
            build_data["force_include"][str(generated)] = f"vireo/{generated.name}"
