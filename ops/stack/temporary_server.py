"""Runs a server for as long as one command needs it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from vireo.ops.stack.die_with_parent import wrapped
from vireo.ops.stack.logs import last_lines, start_log
from vireo.server.errors import VireoError

_START_SECONDS, _STOP_SECONDS, _POLL_SECONDS = 30.0, 10.0, 0.1


@contextmanager
def temporary_server(
    command: list[str],
    log: Path,
    problem: Callable[[], str],
    environment: Mapping[str, str],
    folder: Path | None = None,
) -> Iterator[None]:
    """Run a server in `folder` for a block, which begins once there is no `problem` any more.

    Raises:
        VireoError: it ends or isn't ready in time; the message has what it wrote last.
    """
    start_log(log)
    with log.open("ab") as file:
        process = subprocess.Popen(
            wrapped(command),
            stdout=file,
            stderr=file,
            start_new_session=True,
            cwd=folder,
            env={**os.environ, **environment},
        )

    def found() -> str:
        if process.poll() is None:
            return problem()
        raise VireoError(
            f"{Path(command[0]).name} ended with code {process.returncode}; see {log}: "
            f"{last_lines(log, 3)}"
        )

    try:
        await_ready(found)
        yield
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_ready(problem: Callable[[], str]) -> None:
    """Return once there is no problem; raise VireoError after some time."""
    deadline = time.monotonic() + _START_SECONDS
    while found := problem():
        if time.monotonic() > deadline:
            raise VireoError(f"{found}; it was not ready after {_START_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)
