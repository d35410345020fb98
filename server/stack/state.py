"""The state file of a running stack: what runs where, for other commands to read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from server.home import Home
from server.stack.lock import holder
from server.stack.supervisor import ProcessStatus, State


class ProcessState(BaseModel):
    """One process, as it was when the file was written."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: State
    pid: int | None
    port: int
    restarts: int
    problem: str
    log: Path
    pool: str = ""
    """The pool that a pod belongs to; empty for processes that aren't pods."""

    @staticmethod
    def of(status: ProcessStatus) -> ProcessState:
        """Return the state of a process with this status."""
        return ProcessState(
            name=status.name,
            state=status.state,
            pid=status.pid,
            port=status.port,
            restarts=status.restarts,
            problem=status.problem,
            log=status.log,
            pool=status.pool,
        )


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

    def with_statuses(self, statuses: Sequence[ProcessStatus], *, ready: bool) -> StackState:
        """Return this state with its processes as they are now."""
        processes = tuple(map(ProcessState.of, statuses))
        return self.model_copy(update={"processes": processes, "ready": ready})

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
