"""Runs `vireo`, in this process or in one of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

from typer.testing import CliRunner, Result

from tests.builders.nats import TOKEN, RunningNats
from vireo.ops.cli.__main__ import app


def vireo(*arguments: str, **environment: str) -> Result:
    """Run a command, in a terminal that is wide enough for any line."""
    return CliRunner(env={"COLUMNS": "200", **environment}).invoke(app, arguments)


def run_vireo(
    environment: Mapping[str, str], *arguments: str, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process, which must end with a code; fail with what it printed."""
    done = subprocess.run(
        ["vireo", *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done
    return done


def help_of(command: str) -> str:
    """Return what `vireo COMMAND --help` prints."""
    done = vireo(*command.split(), "--help")
    assert done.exit_code == 0, done.output
    return done.output


def reaching(nats: RunningNats) -> dict[str, str]:
    """Variables by which commands reach a log."""
    return {"VIREO_NATS_URL": nats.url, "VIREO_NATS_TOKEN": TOKEN}
