"""Runs `vireo` in this process."""

from __future__ import annotations

from typer.testing import CliRunner

from vireo.ops.cli.__main__ import app


def help_of(command: str) -> str:
    """Return what `vireo COMMAND --help` prints."""
    done = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output
