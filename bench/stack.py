"""A home's stack, on free ports, for as long as a measurement takes."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import psutil

from bench.process import running
from vireo.ops import cli
from vireo.ops.stack.ports import PortTakenError, check_ports_free
from vireo.ops.stack.processes import ProcessSpec, pod_processes
from vireo.ops.stack.s3 import access, embedded_s3
from vireo.ops.stack.settings import PodKind, StackSettings
from vireo.ops.stack.state import ProcessState, StackState, running_stack
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.releases.channels import Change
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore

VIREO = (sys.executable, "-m", cli.__name__)
"""The `vireo` command of this environment."""
CHANNEL = "production"
_START_SECONDS = 300.0
_STOP_SECONDS = 60.0
_RESERVATIONS = 8
_reservations: deque[TextIO] = deque()
"""Locks on the newest bases of this process; ports of older ones are bound by now."""


@dataclass(frozen=True)
class OwnStack:
    """A stack on ports of its own, to be run."""

    settings: StackSettings
    environment: Mapping[str, str]
    """Variables that direct `vireo` commands to this stack."""
    releases: Sequence[str]
    """Ids of the releases in its S3; the first is in production."""

    @property
    def home(self) -> Home:
        """The home that holds its state."""
        return self.settings.home_folder

    def state(self) -> StackState:
        """Return what runs now; raise VireoError if the stack has ended."""
        state = running_stack(self.home)
        if state is None:
            raise VireoError(f"the stack of {self.home.root} has ended; its logs say why")
        return state

    @property
    def s3(self) -> S3Settings:
        """Access to its S3 server."""
        server = access(self.settings)
        assert server is not None, "the stack has its own S3 server"
        return server

    def further_pod(self, kind: PodKind) -> ProcessSpec:
        """Return one pod more than the stack has of a kind, as the stack would run it."""
        count = f"{kind}_pods"
        more = self.settings.model_copy(update={count: getattr(self.settings, count) + 1})
        pods = pod_processes(more, self.s3)
        return [each for each in pods if each.name.startswith(f"{kind}-")][-1]

    def pods(self) -> list[ProcessState]:
        """Return its pods; raise VireoError if the stack has ended."""
        return [each for each in self.state().processes if each.pool]

    def memory(self) -> int:
        """Return the resident bytes of all pods."""
        pids = [pod.pid for pod in self.pods() if pod.pid is not None]
        return sum(psutil.Process(pid).memory_info().rss for pid in pids)

    @contextmanager
    def running(self) -> Iterator[OwnStack]:
        """Run it until the block ends.

        Raises:
            VireoError: it did not become ready; its output is in the home's logs.
        """
        self.home.logs.mkdir(parents=True, exist_ok=True)
        with running(
            [*VIREO, "up"],
            self.home.logs / "up.log",
            lambda: bool((state := running_stack(self.home)) and state.ready),
            self.environment,
            patience=_START_SECONDS,
            stop=signal.SIGINT,
            grace=_STOP_SECONDS,
        ):
            yield self


def own_home(home: Home, name: str) -> Home:
    """Return an empty home below another's, with the data and features of that one."""
    own = Home(home.root / "bench" / name)
    shutil.rmtree(own.root, ignore_errors=True)
    own.logs.mkdir(parents=True)
    for part in ("data", "features"):
        (own.root / part).symlink_to(home.root / part, target_is_directory=True)
    return own


def own_stack(home: Home, *releases: Path, settings: Mapping[str, str] | None = None) -> OwnStack:
    """Publish releases to the emptied S3 of a home's stack, which may not run.

    Args:
        home: of the stack.
        releases: folders; the first is promoted to production.
        settings: variables of the stack and its pods.
    """
    environment = {**stack_environment(home), **(settings or {})}
    own = StackSettings.model_validate(
        {
            name.removeprefix("VIREO_").lower(): text
            for name, text in environment.items()
            if name.startswith("VIREO_")
        }
    )
    shutil.rmtree(home.s3, ignore_errors=True)
    with embedded_s3(own) as server:
        store = ReleaseStore(server)
        ids = [store.publish(folder).release_id for folder in releases]
        store.change_channel(CHANNEL, Change(ids[0]), store.read_channel(CHANNEL))
    return OwnStack(own, environment, ids)


def stack_environment(home: Home) -> dict[str, str]:
    """Return this process's environment for commands on `home`, with ports that are free now.

    Our own variables are left out.
    """
    kept = {name: text for name, text in os.environ.items() if not name.startswith("VIREO_")}
    base = free_port_base()
    ports = {"VIREO_PORT_BASE": str(base), "VIREO_EDGE_PORT": str(base + 3)}
    patience = {"VIREO_START_TIMEOUT": "240"}  # a busy machine may take minutes
    return {**kept, **ports, **patience, "VIREO_HOME": str(home.root)}


def run_vireo(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run a `vireo` command, showing its progress, and return what it printed.

    Raises:
        VireoError: it failed.
    """
    done = subprocess.run([*VIREO, *command], env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise VireoError(f"vireo {' '.join(command)} failed with code {done.returncode}")
    return done.stdout


@contextmanager
def served_release(home: Home, dataset: str) -> Iterator[str]:
    """Yield host:port of the edge of a stack that serves `home`'s trained release of a data set.

    The stack's S3 below `home` is emptied first.

    Raises:
        VireoError: nothing was trained, a stack runs there, or it doesn't start.
    """
    release = home.trained_release(dataset)
    if (state := running_stack(home)) is not None:
        raise VireoError(f"a stack runs on {home.root} already, at {state.edge}; stop it first")
    with own_stack(home, release).running() as stack:
        yield stack.settings.edge


def _reserved(base: int) -> bool:
    """Reserve a base, and return whether it wasn't: its ports look free until they are bound."""
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
    """Return a VIREO_PORT_BASE whose ports are all free, with the fourth for the edge."""
    for _ in range(100):
        # Below the kernel's range of clients' ports, as is S3's + 10008.
        base = random.randrange(11_000, 21_000, 100)  # noqa: S311
        settings = StackSettings(port_base=base, edge_port=base + 3)
        try:
            check_ports_free(settings.ports(embedded_s3=True))
        except PortTakenError:
            continue
        if _reserved(base):
            return base
    raise VireoError("no free ports for a stack from 11000 to 21000")
