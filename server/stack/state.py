"""The state file of a running stack: what runs where, for other commands to read."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from server.home import Home
from server.stack.lock import holder

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


class StackState(BaseModel):
    """A running stack."""

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
    """Return the stack that runs on this home; None if there is none, or it has only just begun."""
    pid = holder(stack_lock(home))
    if pid is None:
        return None
    try:
        state = StackState.model_validate_json(_path(home).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return state if state.pid == pid else None


def _path(home: Home) -> Path:
    return home.stack / "stack.json"
