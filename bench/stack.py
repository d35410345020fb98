"""Runs a home's stack on free ports for as long as a measurement takes."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from clients import cli
from server.errors import VireoError
from server.home import Home
from server.releases.store import ReleaseStore
from server.stack.ports import PortTakenError, check_ports_free
from server.stack.s3 import embedded_s3
from server.stack.settings import StackSettings
from server.stack.state import running_stack

VIREO = (sys.executable, "-m", cli.__name__)
"""The `vireo` command of this environment."""
_CHANNEL = "production"
_START_SECONDS = 300.0
_STOP_SECONDS = 60.0
_RESERVATIONS = 8
_reservations: deque[TextIO] = deque()
"""Locks on the bases given last in this process; by the time that one goes its ports are bound."""


def stack_environment(home: Home) -> dict[str, str]:
    """This process's environment for commands on `home`, with ports that are free now.

    A busy machine may take minutes to start a stack, which isn't what is measured.
    """
    kept = {name: text for name, text in os.environ.items() if not name.startswith("VIREO_")}
    base = free_port_base()
    ports = {"VIREO_PORT_BASE": str(base), "VIREO_EDGE_PORT": str(base + 3)}
    patience = {"VIREO_START_TIMEOUT": "240"}
    return {**kept, **ports, **patience, "VIREO_HOME": str(home.root)}


@contextmanager
def served(home: Home, environment: Mapping[str, str]) -> Iterator[None]:
    """A stack that serves what `home` has published, until the block ends.

    Args:
        home: the stack's.
        environment: see `stack_environment`; other commands find the stack under it.

    Raises:
        VireoError: it did not become ready; its output is in the home's logs.
    """
    home.logs.mkdir(parents=True, exist_ok=True)
    output = home.logs / "up.log"
    with output.open("w") as file:
        process = subprocess.Popen(
            [*VIREO, "up"],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not ((state := running_stack(home)) and state.ready):
            if process.poll() is not None or time.monotonic() > deadline:
                raise VireoError(f"the stack of {home.root} did not start; see {output}")
            time.sleep(0.2)
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def served_release(home: Home, dataset: str) -> Iterator[str]:
    """Yield host:port of the edge of a stack that serves `home`'s trained release of a data set.

    The stack's S3 below `home` is emptied first: a home that is measured on publishes nothing.

    Raises:
        VireoError: nothing was trained, a stack runs there, or it doesn't start.
    """
    release = home.trained_release(dataset)
    if (state := running_stack(home)) is not None:
        raise VireoError(f"a stack runs on {home.root} already, at {state.edge}; stop it first")
    environment = stack_environment(home)
    settings = StackSettings(
        home=home.root,
        port_base=int(environment["VIREO_PORT_BASE"]),
        edge_port=int(environment["VIREO_EDGE_PORT"]),
    )
    shutil.rmtree(home.s3, ignore_errors=True)
    publish(settings, release)
    with served(home, environment):
        yield settings.edge


def publish(settings: StackSettings, *releases: Path) -> list[str]:
    """Publish releases to the embedded S3 of a stack that doesn't run, and return their ids.

    The first is then the one in production.
    """
    with embedded_s3(settings) as server:
        store = ReleaseStore(server)
        ids = [store.publish(folder).release_id for folder in releases]
        store.set_channel(_CHANNEL, ids[0], store.read_channel(_CHANNEL))
    return ids


def _reserved(base: int) -> bool:
    """Whether nobody was given this base just now: until its ports are bound they look free."""
    file = (Path(tempfile.gettempdir()) / f"vireo-ports-{os.getuid()}-{base}").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    if len(_reservations) == _RESERVATIONS:
        _reservations.popleft().close()
    _reservations.append(file)
    return True


def free_port_base() -> int:
    """A VIREO_PORT_BASE whose ports are all free, and the fourth, for the edge, too."""
    for _ in range(100):
        # Below the range from which the kernel gives ports to clients, S3's + 10008 too.
        base = random.randrange(11_000, 21_000, 100)  # noqa: S311
        settings = StackSettings(port_base=base, edge_port=base + 3)
        try:
            check_ports_free(settings.ports(embedded_s3=True))
        except PortTakenError:
            continue
        if _reserved(base):
            return base
    raise VireoError("no free ports for a stack from 11000 to 21000")
