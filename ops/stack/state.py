"""The state file of a running stack: what runs where, for other commands to read."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from vireo.server.errors import NoAnswerError, VireoError
from vireo.server.file_lock import file_lock, holder
from vireo.server.home import Home, replace_private

Layout = Literal["separate", "together"]
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
    layout: Layout = "separate"
    """Where its slates are made."""
    layout_refused: str = ""
    """Why it didn't move to the layout that was asked for last; empty if it did."""
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
        replace_private(path, f"{self.model_dump_json(indent=2)}\n".encode())


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


_BY_NAME = ("s3", "log", "envoy", "prometheus", "alertmanager")
"""Processes that are restarted only if they are named."""
_POLL_SECONDS = 0.2
_SEEN_SECONDS = 3.0
"""Seconds until the next of its kind is restarted: Envoy asks a pod that was down every 0.5 s, and
must have found the new one by then."""


_MOVE_SECONDS = 60.0
"""Seconds that a move takes at most once its pods are healthy."""


def environment_file(home: Home) -> Path:
    """Return the path of the variables that the stack is to read and remove, as JSON."""
    return home.stack / "environment"


def layout_file(home: Home) -> Path:
    """Return the path of the layout that the stack is to move to, which removes the file then."""
    return home.stack / "layout"


def move(home: Home, layout: Layout, patience: float) -> None:
    """Have a home's stack move to a layout, and return once the pods before have ended.

    The pods of the layout have `patience` seconds to become healthy.

    Raises:
        VireoError: no stack runs, or it stays as it is.
    """
    _processes(home)
    file = layout_file(home)
    with file_lock(home.stack / "restart"):
        replace_private(file, layout.encode())
        deadline = time.monotonic() + patience + _MOVE_SECONDS
        while file.exists():
            _processes(home)  # or it has ended
            if time.monotonic() > deadline:
                raise VireoError(f"the stack is still moving to {layout}; see: vireo status")
            time.sleep(_POLL_SECONDS)
    state = running_stack(home)
    if state is None or state.layout != layout:
        reason = state.layout_refused if state else "it has ended"
        raise VireoError(f"the stack keeps its layout: {reason}")


def restart(home: Home, names: Sequence[str], patience: float) -> list[str]:
    """Restart processes of a home's stack, with the `VIREO_…` variables of this process.

    Args:
        home: of the stack.
        names: processes, or kinds of them; if empty, all but those of _BY_NAME.
        patience: maximum seconds until one is healthy, before the next one goes.

    Returns:
        The names of those that were restarted, in order.

    Raises:
        VireoError: no such process runs, one isn't healthy in time, or another restart runs.
    """
    running = _processes(home)
    wanted = [
        name
        for name in running
        if ({name, _kind(name)} & {*names} if names else name not in _BY_NAME)
    ]
    if not wanted:
        raise VireoError(f"there is no {', '.join(names)} to restart, but {', '.join(running)}")
    own = {name: text for name, text in os.environ.items() if name.startswith("VIREO_")}
    with file_lock(home.stack / "restart"):  # two at once would end all of a kind
        replace_private(environment_file(home), json.dumps(own).encode())
        for before, name in pairwise(["", *wanted]):
            if _kind(name) == _kind(before):
                time.sleep(_SEEN_SECONDS)
            _restart(home, name, patience)
            if environment_file(home).exists():
                raise VireoError(
                    f"the stack can't use these settings; its own output says why: {name}"
                )
    return wanted


def _restart(home: Home, name: str, patience: float) -> None:
    now = before = _processes(home)[name]
    if before.pid is not None:
        with suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(before.pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    canary = before.pool == "canary"  # its channel may name no release yet
    while now.pid in (None, before.pid) or not (canary or now.state == "healthy"):
        if time.monotonic() > deadline:
            raise VireoError(
                f"{name} isn't healthy {patience:.0f} s after its restart ({now.problem}), and "
                f"those after it stay as they are; its log: {now.log}"
            )
        time.sleep(_POLL_SECONDS)
        now = _processes(home)[name]


def _processes(home: Home) -> dict[str, ProcessState]:
    if (state := running_stack(home)) is None:
        raise NoAnswerError(f"no stack runs on {home.root}; start one with: vireo up")
    return {process.name: process for process in state.processes}


def _kind(name: str) -> str:
    """Return "candidate-canary" of "candidate-canary-1", and "log" of "log"."""
    return name.rpartition("-")[0] or name
