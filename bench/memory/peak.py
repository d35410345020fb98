"""The peak memory of a command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from clients import cli
from server.errors import VireoError
from server.home import Home

# A process begins with the peak of the one that started it, so a small one is put between.
_LAUNCHER = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
unit = 1 if sys.platform == "darwin" else 1024
print(unit * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def peak_memory(home: Home, arguments: Sequence[str]) -> int:
    """Run a `vireo` command and return the peak resident memory of its largest process.

    Args:
        home: what the command has for VIREO_HOME.
        arguments: the command, without `vireo`.

    Returns:
        Bytes.

    Raises:
        VireoError: the command fails.
    """
    command = [sys.executable, "-m", cli.__name__, *arguments]
    done = subprocess.run(
        [sys.executable, "-c", _LAUNCHER, *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "VIREO_HOME": str(home.root)},
    )
    if done.returncode:
        raise VireoError(f"vireo {arguments[0]} failed: {done.stderr.strip()[-2000:]}")
    return int(done.stdout)
