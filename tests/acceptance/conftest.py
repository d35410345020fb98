"""The demo's own release and data, served by a stack on free ports."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.secured_stack import ONE_POD_EACH
from tests.builders.stack import Stack, running_stack
from vireo.server.home import Home

CHECKOUT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="session")
def demo_home() -> Home:
    """The home in which `vireo demo --once` has run; runs it where it hasn't.

    `.ci/run` runs it beside the tests before these.
    """
    home = Home.current()
    home.root.mkdir(parents=True, exist_ok=True)
    with (home.root / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home.staged_release("ml-100k") / "manifest.json").exists():
            subprocess.run(
                ["make", "demo", "ONCE=1"],
                cwd=CHECKOUT,
                env={**os.environ, "VIREO_HOME": str(home.root)},
                check=True,
                timeout=900,
            )
    return home


@pytest.fixture(scope="session")
def stack(demo_home: Home) -> Iterator[Stack]:
    """A stack that serves the demo's release."""
    with running_stack(demo_home.root, settings=ONE_POD_EACH) as stack:
        yield stack
