"""The state file of a running stack: what runs where, for other commands to read."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from vireo.server.errors import VireoError
from vireo.server.file_lock import holder
from vireo.server.home import Home

State = Literal["starting", "healthy", "unhealthy", "restarting", "stopped"]


class ProcessState(BaseModel):
    """One process and its status."""

    model_config = ConfigDict(frozen=True)

    name: str
    port: int
    log: Path
    pool: str = ""
    """The pool that a pod belongs to; empty for processes that aren't pods."""
    state: State = "starting"
    pid: int | None = None
    restarts: int = 0
    problem: str = ""
    """Why it isn't healthy; empty if it is."""
    ended: str = ""
    """How it ended last, for example "ended with signal SIGKILL"; empty if it never did."""
    ended_at: datetime | None = None


class StackState(BaseModel):
    """A running stack.

    Commands of other builds read it too. They ignore fields that they don't know, and each new one
    has a default.
    """

    model_config = ConfigDict(frozen=True)

    pid: int
    """The supervisor's process id."""
    started_at: datetime
    ready: bool
    """Whether every process has been healthy."""
    channel: str
    edge: str
    """host:port that callers use."""
    admin_port: int
    """Port of Envoy's admin interface; 0 for none."""
    secure: bool = False
    """Whether certificates and tokens are required."""
    prometheus: str = ""
    """URL of the stack's Prometheus; empty if it runs none."""
    alertmanager: str = ""
    """URL of the stack's Alertmanager; empty if it runs none."""
    durable: bool | None = None
    """Whether the embedded log writes each message to disk before it is acknowledged; None if the
    log is another one."""
    processes: tuple[ProcessState, ...] = ()

    def write(self, home: Home) -> None:
        """Replace the state file."""
        path = _path(home)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(self.model_dump_json(indent=2) + "\n")
        fresh.replace(path)


def stack_lock(home: Home) -> Path:
    """Return the path of the lock that a running stack holds."""
    return home.stack / "lock"


def running_stack(home: Home) -> StackState | None:
    """Return the stack that runs on this home; None if there is none, or it has only just begun.

    Raises:
        VireoError: it runs, but its state is of another build, whose commands can read it.
    """
    pid = holder(stack_lock(home))
    if pid is None:
        return None
    try:
        text = _path(home).read_bytes()
    except FileNotFoundError:
        return None
    try:
        state = StackState.model_validate_json(text)
    except ValidationError as error:
        if _pid_in(text) != pid:
            return None  # what the stack before this one left
        raise VireoError(
            f"a stack runs on {home.root} (process {pid}), but this build can't read "
            f"{_path(home)}: {error.errors()[0]['msg']}; use the build that started it, or end "
            f"it with: kill {pid}"
        ) from error
    return state if state.pid == pid else None


def _pid_in(text: bytes) -> int | None:
    """Return the process id in a state that can't be read; None if it has none."""
    try:
        document = json.loads(text)
    except ValueError:
        return None
    pid = document.get("pid") if isinstance(document, dict) else None
    return pid if isinstance(pid, int) else None


def _path(home: Home) -> Path:
    return home.stack / "stack.json"
