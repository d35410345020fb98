"""Output for programs: JSON instead of tables."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def print_json(document: Any) -> None:
    """Print a document, indented."""
    typer.echo(json.dumps(document, indent=2))
