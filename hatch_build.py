"""Makes the Python stubs and the descriptor set from protos/ whenever the project is built.

Runs on every install, editable ones included, so stubs can't be stale in an environment
that `make setup` made. Nothing that it writes is committed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent))

from protos.generate import GENERATED, generate
from protos.python_client import generate_client
from wheel_layout import PACKAGE, lay_out

ROOT = Path(__file__).parent


class WheelHook(BuildHookInterface[Any]):
    """Decides what is in a wheel; an editable install reads the checkout instead."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write protos/gen/ afresh; give a wheel, unless it is editable, its one package."""
        generate()
        if version == "editable":
            generate_client()
            return
        self._scratch = tempfile.TemporaryDirectory()
        package = Path(self._scratch.name) / PACKAGE
        lay_out(ROOT, GENERATED, package)
        build_data["force_include"][str(package)] = PACKAGE
        scripts = self.metadata.core.scripts
        scripts.update({name: f"{PACKAGE}.{target}" for name, target in scripts.items()})
