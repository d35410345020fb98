"""A stack of one's own, on free ports, for as long as a measurement takes."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from vireo.ops import cli
from vireo.ops.stack.ports import free_port_base, temporary_server
from vireo.ops.stack.s3 import embedded_s3
from vireo.ops.stack.settings import StackSettings
from vireo.ops.stack.state import running_stack
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.releases.channels import Change
from vireo.server.releases.store import ReleaseStore

VIREO = (sys.executable, "-m", cli.__name__)
"""The `vireo` command of this environment."""
CHANNEL = "production"
_START_SECONDS, _STOP_SECONDS = 300.0, 60.0


@dataclass(frozen=True)
class OwnStack:
    """A stack on ports of its own, to be run."""

    settings: StackSettings
    environment: Mapping[str, str]
    """Variables that direct `vireo` commands to this stack."""
    releases: Sequence[str]
    """Ids of the releases in its S3; the first is in production."""

    @classmethod
    def of(cls, home: Home, *releases: Path, settings: Mapping[str, str] | None = None) -> Self:
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
        return cls(own, environment, ids)

    @property
    def home(self) -> Home:
        """The home that holds its state."""
        return self.settings.home_folder

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Run it until the block ends.

        Raises:
            VireoError: it did not become ready; its output is in the home's logs.
        """

        def problem() -> str:
            state = running_stack(self.home)
            return "" if state and state.ready else f"the stack did not start; see {log}"

        log, up = self.home.logs / "up.log", [*VIREO, "up"]
        with temporary_server(
            up,
            log,
            problem,
            self.environment,
            start_seconds=_START_SECONDS,
            stop_seconds=_STOP_SECONDS,
        ):
            yield self


def stack_environment(home: Home) -> dict[str, str]:
    """Return this process's environment for commands on `home`, with ports that are free now.

    Our own variables are left out.
    """
    kept = {name: text for name, text in os.environ.items() if not name.startswith("VIREO_")}
    base = free_port_base()
    ports = {"VIREO_PORT_BASE": str(base), "VIREO_EDGE_PORT": str(base + 3)}
    patience = {"VIREO_START_TIMEOUT": "240"}  # a busy machine may take minutes
    return {**kept, **ports, **patience, "VIREO_HOME": str(home.root)}


@contextmanager
def served_release(
    home: Home, dataset: str, settings: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Yield host:port of the edge of a stack that serves `home`'s trained release of a data set.

    The stack's S3 below `home` is emptied first; `settings` are variables of the stack.

    Raises:
        VireoError: nothing was trained, a stack runs there, or it doesn't start.
    """
    release = home.trained_release(dataset)
    if (state := running_stack(home)) is not None:
        raise VireoError(f"a stack runs on {home.root} already, at {state.edge}; stop it first")
    with OwnStack.of(home, release, settings=settings).running() as stack:
        yield stack.settings.edge
