"""The stack under test: a home of its own, with features of its own, which events change."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console

from bench.live.plan import LivePlan
from bench.live.site import until
from bench.stack import OwnStack, own_stack, run_vireo, stack_environment
from bench.swap import make_twin
from vireo.ops.stack.state import ProcessState
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.training.features.watches import load_watches


@dataclass(frozen=True)
class LiveStack:
    """A stack that serves two releases of a data set, the first at first."""

    stack: OwnStack
    dataset: str
    plan: LivePlan
    console: Console
    viewers: Sequence[str]
    """Viewers of the data set, then strangers, as many as hide a video."""
    tags: Mapping[str, frozenset[str]]
    """Tags of each video of the data set."""

    @property
    def edge(self) -> str:
        """host:port."""
        return self.stack.settings.edge

    @property
    def videos(self) -> list[str]:
        """Ids of the data set's videos."""
        return list(self.tags)

    @property
    def features(self) -> Path:
        """The feature folder that its consumers write to."""
        return self.stack.home.features(self.dataset)

    def process(self, name: str) -> ProcessState:
        """Return a process by name; raise VireoError if there is none."""
        for each in self.stack.state().processes:
            if each.name == name:
                return each
        raise VireoError(f"the stack has no process {name}")

    def names(self, *kinds: str) -> list[str]:
        """Return the names of the processes of some kinds, for example "gateway-1"."""
        processes = self.stack.state().processes
        return [each.name for each in processes if each.name.rpartition("-")[0] in kinds]

    async def kill(self, names: Sequence[str]) -> None:
        """Kill -9 processes, and return once they are healthy again."""
        killed = {name: self.process(name).pid for name in names}
        for pid in killed.values():
            if pid is not None:
                os.kill(pid, signal.SIGKILL)

        async def back() -> bool:
            return all(
                (process := self.process(name)).pid not in (None, pid)
                and process.state == "healthy"
                for name, pid in killed.items()
            )

        await until(back, f"the restart of {', '.join(names)}", self.plan.patience)

    async def healthy(self) -> None:
        """Return once no process is down; what was killed last may still start."""

        async def all_healthy() -> bool:
            return all(each.state == "healthy" for each in self.stack.state().processes)

        await until(all_healthy, "the restart of what was killed", self.plan.patience)


@contextmanager
def live_stack(
    home: Home,
    dataset: str,
    plan: LivePlan,
    console: Console,
    name: str,
    settings: Mapping[str, str] | None = None,
) -> Iterator[LiveStack]:
    """Build the features of a data set anew, and run a stack on them until the block ends.

    Args:
        home: has the data set, and a release that was trained on it.
        dataset: its name.
        plan: how much to measure.
        console: for progress.
        name: of the stack's home below `home`.
        settings: further variables of the stack.

    Raises:
        VireoError: nothing was trained on the data set, or the stack doesn't start.
    """
    release = home.trained_release(dataset)
    own = Home(home.root / "bench" / "live" / name)
    shutil.rmtree(own.root, ignore_errors=True)
    own.logs.mkdir(parents=True)
    (own.root / "data").symlink_to((home.root / "data").absolute(), target_is_directory=True)
    console.print(f"building the features of {dataset} and starting a stack")
    run_vireo(["features", "build", dataset], {**stack_environment(own), **(settings or {})})
    watches = load_watches(own, dataset)["viewer_id"].drop_duplicates()
    viewers = [str(each) for each in watches.head(plan.hiding)]
    viewers += [f"stranger-{number}" for number in range(plan.hiding - len(viewers))]
    twin = make_twin(release, own.root / "twin")
    videos = pd.read_parquet(home.data(dataset) / "videos.parquet", columns=["video_id", "tags"])
    tags = {
        str(video): frozenset(map(str, tags))
        for video, tags in zip(videos["video_id"], videos["tags"], strict=True)
    }
    stack = own_stack(own, release, twin, settings=settings)
    with stack.running():
        yield LiveStack(stack, dataset, plan, console, viewers, tags)
