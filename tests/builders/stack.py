"""Runs a whole stack, as `vireo up` does, on free ports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vireo.ops.cli.own_stack import stack_environment as environment_of_own_stack
from vireo.ops.stack.state import StackState
from vireo.ops.stack.state import running_stack as state_of
from vireo.server.home import Home

_START_SECONDS = 240.0
_STOP_SECONDS = 60.0
BIN = Path(sys.executable).parent
PATIENT = {
    "VIREO_DEFAULT_DEADLINE": "9",
    "VIREO_SHEDDING": "false",
    **{f"VIREO_{stage}_TIMEOUT": "5" for stage in ("FEATURES", "RETRIEVAL", "RANKING")},
}
"""A busy machine is late by itself, and its pods turn calls away that would wait, which answers
would declare: what these tests ask is not how quick it is."""


@dataclass(frozen=True)
class Stack:
    """A stack that serves."""

    home: Home
    edge: str
    """host:port that callers use."""
    environment: dict[str, str]
    """Under which the `vireo` command, on its PATH, means this stack."""
    process: subprocess.Popen[str]
    """`vireo up`."""

    def state(self) -> StackState:
        """What runs now."""
        state = state_of(self.home)
        assert state is not None, "the stack has ended"
        return state

    def pid(self, name: str) -> int:
        """Process id of one of its processes."""
        [pid] = [process.pid for process in self.state().processes if process.name == name]
        assert pid is not None, f"{name} does not run"
        return pid


def stack_environment(home: Path, programs: Path = BIN) -> dict[str, str]:
    """This process's environment, with `home`, free ports and `vireo` on the PATH."""
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return {**environment_of_own_stack(Home(home)), "PATH": path}


@contextmanager
def running_stack(
    home: Path,
    *,
    prepare: str = "",
    folder: Path | None = None,
    settings: Mapping[str, str] | None = None,
    programs: Path = BIN,
    arguments: Sequence[str] = (),
) -> Iterator[Stack]:
    """A stack that serves; stopped by Ctrl-C in the end, which must free everything.

    Args:
        home: its VIREO_HOME.
        prepare: shell commands to run before, with the same settings.
        folder: where to run them and the stack; the current one if None.
        settings: further `VIREO_…` variables, besides those that make it patient.
        programs: folder of the `vireo` command to use; this environment's by default.
        arguments: further ones of `vireo up`.
    """
    environment = {**stack_environment(home, programs), **PATIENT, **(settings or {})}
    if prepare:
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", prepare], cwd=folder, env=environment, check=True
        )
    process = subprocess.Popen(
        [programs / "vireo", "up", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        _wait_until_ready(Home(home), process)
        edge = f"127.0.0.1:{environment['VIREO_EDGE_PORT']}"
        yield Stack(Home(home), edge, environment, process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=_STOP_SECONDS)
    assert process.returncode == 0, output


def _wait_until_ready(home: Home, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"vireo up ended: {process.communicate()[0]}")
        state = state_of(home)
        if state is not None and state.ready:
            return
        time.sleep(0.1)
    process.kill()
    raise AssertionError(f"the stack was not ready: {process.communicate()[0]}")
