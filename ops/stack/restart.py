"""Restarts processes of a running stack one after the other, with the settings of now."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from vireo.ops.stack.state import ProcessState, running_stack
from vireo.server.errors import VireoError
from vireo.server.file_lock import file_lock
from vireo.server.home import Home

_BY_NAME = ("s3", "log", "envoy", "prometheus", "alertmanager")
"""Processes that are restarted only if they are named."""
_POLL_SECONDS = 0.2
_SEEN_SECONDS = 3.0
"""Seconds until the next of its kind is restarted: Envoy asks a pod that was down every 0.5 s, and
must have found the new one by then."""


def environment_file(home: Home) -> Path:
    """Return the path of the variables that the stack is to read and remove, as JSON."""
    return home.stack / "environment"


def restart(home: Home, names: Sequence[str], patience: float) -> None:
    """Restart processes of a home's stack, with the `VIREO_…` variables of this process.

    Args:
        home: of the stack.
        names: processes, or kinds of them; if empty, all but those of _BY_NAME.
        patience: maximum seconds until one is healthy, before the next one goes.

    Raises:
        VireoError: no such process runs, one isn't healthy in time, or another restart runs.
    """
    # Imported here, since it imports cryptography, which those who only read don't need.
    from vireo.ops.stack.s3_keys import replace_private

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


def _restart(home: Home, name: str, patience: float) -> None:
    now = before = _processes(home)[name]
    if before.pid is not None:
        with suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(before.pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    side_pool = before.pool not in ("", "production")  # its channel may name no release yet
    while now.pid in (None, before.pid) or not (side_pool or now.state == "healthy"):
        if time.monotonic() > deadline:
            raise VireoError(
                f"{name} isn't healthy {patience:.0f} s after its restart ({now.problem}), and "
                f"those after it stay as they are; its log: {now.log}"
            )
        time.sleep(_POLL_SECONDS)
        now = _processes(home)[name]


def _processes(home: Home) -> dict[str, ProcessState]:
    if (state := running_stack(home)) is None:
        raise VireoError(f"no stack runs on {home.root}; start one with: vireo up")
    return {process.name: process for process in state.processes}


def _kind(name: str) -> str:
    """Return "candidate-canary" of "candidate-canary-1", and "log" of "log"."""
    return name.rpartition("-")[0] or name
