"""Runs a command that the kernel kills when its parent process ends, however that ends.

Run as a script: `python -I -S die_with_parent.py PARENT_PID COMMAND…`. It replaces itself by
the command, which keeps its process id. A pre-exec hook in the parent would do the same, but
must not run between fork and exec of a process that has threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def wrapped(command: list[str]) -> list[str]:
    """Return the command line that runs `command` tied to this process's life."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def main(parent: int, command: list[str]) -> None:
    """Tie this process to `parent` and become `command`."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the line above took effect
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
