"""Runs `vireo` in this process."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from tests.builders.nats import TOKEN, RunningNats
from vireo.ops.cli.__main__ import app


def vireo(*arguments: str, **environment: str) -> Result:
    """Run a command, in a terminal that is wide enough for any line."""
    return CliRunner(env={"COLUMNS": "200", **environment}).invoke(app, arguments)


def help_of(command: str) -> str:
    """Return what `vireo COMMAND --help` prints."""
    done = vireo(*command.split(), "--help")
    assert done.exit_code == 0, done.output
    return done.output


def reaching(nats: RunningNats) -> dict[str, str]:
    """Variables by which commands reach a log."""
    return {"VIREO_NATS_URL": nats.url, "VIREO_NATS_TOKEN": TOKEN}
