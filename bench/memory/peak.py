"""The peak memory of a command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from bench.speed.row import Row
from clients import cli
from server.errors import VireoError
from server.home import Home

MAX_GB = 4.0
_GB = 1e9

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


def peak_rows(what: str, events: int, peak: int, said: int) -> list[Row]:
    """Return the rows of one measurement.

    Args:
        what: the command's work.
        events: how many it worked on.
        peak: bytes that it took.
        said: bytes that it said before that it would.
    """
    name = f"{what}, {events:,} events"
    return [
        Row(f"{name}: peak memory in GB", peak / _GB, bound=MAX_GB),
        Row(f"{name}: memory said before, over used", said / peak, bound=1.0, at_least=True),
    ]
