"""What `vireo doctor` finds, asked as an operator asks it."""

from __future__ import annotations

import asyncio
import json
import subprocess
from dataclasses import dataclass

from bench.stack import VIREO, OwnStack
from vireo.server.errors import VireoError

_SECONDS = 60.0


@dataclass(frozen=True)
class Found:
    """One finding."""

    cause: str
    level: str
    """"failing", "risk" or "note"."""


async def findings(stack: OwnStack) -> list[Found]:
    """Return what it finds, the likeliest first.

    Raises:
        VireoError: it failed, took too long, or could ask nothing.
    """
    try:
        done = await asyncio.to_thread(
            subprocess.run,
            [*VIREO, "doctor", "--json"],
            env=dict(stack.environment),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise VireoError(f"vireo doctor took more than {_SECONDS:.0f} s") from error
    if done.returncode not in (0, 1):  # 1 says that something fails
        raise VireoError(f"vireo doctor failed: {done.stderr.strip() or done.stdout.strip()}")
    found = json.loads(done.stdout)["findings"]
    return [Found(each["cause"], each["level"]) for each in found]
