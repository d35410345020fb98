"""Asks a running stack to restart processes one after the other, with the settings of now."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from server.errors import VireoError
from server.home import Home
from server.stack.state import running_stack

_POLL_SECONDS = 0.2


def request_file(home: Home) -> Path:
    """Return the path of what the stack is asked to restart; removed as soon as it is read."""
    return home.stack / "restart"


def outcome_file(home: Home) -> Path:
    """Return the path of what became of the last request: what failed, or nothing."""
    return home.stack / "restarted"


def restart(home: Home, names: Sequence[str]) -> None:
    """Have the stack of a home restart processes, and return once it has.

    They get its settings, and on top of them the `VIREO_…` variables of this process.

    Args:
        home: of the stack.
        names: processes, or kinds of them; if empty, all but the stores and Envoy.

    Raises:
        VireoError: no stack runs, or a process didn't become healthy; those after it are as before.
    """
    # Imported here, since it imports cryptography, which those who only read don't need.
    from server.stack.s3_keys import replace_private

    state = running_stack(home)
    if state is None:
        raise VireoError(f"no stack runs on {home.root}; start one with: vireo up")
    if not state.restartable:
        raise VireoError("an earlier build runs this stack; stop it and start it again")
    outcome = outcome_file(home)
    outcome.unlink(missing_ok=True)
    own = {name: text for name, text in os.environ.items() if name.startswith("VIREO_")}
    request = {"names": names, "environment": own}
    replace_private(request_file(home), json.dumps(request).encode())
    os.kill(state.pid, signal.SIGUSR1)
    while not outcome.exists():
        if running_stack(home) is None:
            raise VireoError(f"the stack on {home.root} ended meanwhile")
        time.sleep(_POLL_SECONDS)
    if problem := outcome.read_text():
        raise VireoError(problem)
