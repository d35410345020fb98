"""Output for programs: JSON instead of tables, and nothing between it."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def only_warnings() -> None:
    """Log warnings and errors alone, on standard error: standard output is the command's."""
    import structlog

    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger("warning"),
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        )


def print_json(document: Any) -> None:
    """Print a document, indented."""
    typer.echo(json.dumps(document, indent=2))
