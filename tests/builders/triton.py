"""Triton's own clients, which run in an environment of their own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


def triton_environment() -> Path:
    """The folder of the programs with Triton's clients; skips the test without them."""
    make = ["make", "oip-env", f"PYTHON={sys.executable}"]
    done = subprocess.run(make, cwd=CHECKOUT, capture_output=True, text=True, timeout=280)
    if done.returncode:
        pytest.skip(f"tritonclient can't be installed: {done.stderr.strip()[-500:]}")
    return CHECKOUT / ".vireo" / "oip-env" / "bin"


async def output(*command: Path | str) -> str:
    """What a command prints, which ends well; this process serves meanwhile."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        printed, errors = await asyncio.wait_for(process.communicate(), 120)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    return printed.decode()
