"""`vireo bench`: hand measurements to `python -m bench`, which a checkout has."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

from vireo.server.errors import VireoError

_CHECKOUT = Path(__file__).parents[3]


def bench(context: typer.Context) -> None:
    """Measure performance, side by side in one run: `vireo bench --help`, from a checkout."""
    if not (_CHECKOUT / "bench" / "__main__.py").exists():
        raise VireoError(
            "vireo bench measures a checkout of the source, which this isn't: run it in one, after "
            "make setup"
        )
    paths = (str(_CHECKOUT), os.environ.get("PYTHONPATH"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    os.execve(sys.executable, [sys.executable, "-m", "bench", *context.args], environment)  # noqa: S606
