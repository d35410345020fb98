"""The stack under test: features of its own, which events change, and two releases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
from rich.console import Console

from bench.site import Recorder, Site, opened_site
from bench.stack import Stack, built_home, make_twin
from vireo.server.home import Home
from vireo.training.features.watches import load_watches
from vireo.v1 import event_pb2

_FLOW_VIEWERS = 5_000


@dataclass(frozen=True)
class LivePlan:
    """How much of each measurement there is. All times in seconds."""

    rate: float = 1_000.0
    """Events a second that come in beside."""
    patience: float = 120.0
    """Maximum wait for anything."""
    timed: bool = True
    """Whether times are judged; a busy machine has none to judge."""

    viewers: int = 200
    """Viewers whose plays are timed."""
    events: int = 200_000
    """Events that are recorded through the edge while its processes are killed."""
    hiding: int = 1_000
    """Viewers who hide a video."""
    videos: int = 20
    """Videos that are added and timed."""
    upserts: int = 100_000
    """Videos that are added for pods' memory."""
    rounds: int = 11
    """Rounds of slates with and without events beside them: short ones, so that what else the
    machine does meets both alike."""
    seconds: float = 3.0
    """Length of each."""
    swaps: int = 20
    """Promotions, back and forth."""
    swap_rate: float = 60.0
    """Slates a second meanwhile."""
    swap_deadline: float = 2.0
    """Deadline of each of these slates, seconds."""
    stores: tuple[str, ...] = ("sqlite", "redis")
    """Online stores with which plays are timed."""


SHORT = LivePlan(
    rate=200.0,
    patience=240.0,
    timed=False,
    viewers=20,
    events=4_000,
    hiding=20,
    videos=3,
    upserts=1_000,
    rounds=1,
    swaps=4,
    swap_rate=20.0,
    swap_deadline=20.0,
    stores=("sqlite",),
)
"""For CI: everything once and briefly; no time is judged."""


@dataclass(frozen=True)
class LiveStack:
    """A stack that serves two releases of a data set, the first at first."""

    stack: Stack
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

    @cached_property
    def videos(self) -> list[str]:
        """Ids of the data set's videos."""
        return list(self.tags)

    def site(self) -> AbstractAsyncContextManager[Site]:
        """Open a connection to the edge."""
        return opened_site(self.edge, self.plan.patience)

    async def kill(self, names: Sequence[str]) -> None:
        """Kill -9 processes, and return once they are healthy again."""
        await self.stack.kill(names, self.plan.patience)

    @asynccontextmanager
    async def flow(self) -> AsyncIterator[None]:
        """Record plays of some thousand viewers at the plan's rate until the block ends."""
        recorder = Recorder(
            self.edge,
            self.videos,
            self.plan.rate,
            self.plan.patience,
            viewers=_FLOW_VIEWERS,
            size=max(1, round(self.plan.rate / 10)),
            kinds=[event_pb2.EVENT_KIND_PLAY],
            past=0.0,
            again=0.0,
        )
        async with recorder:
            yield


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
    console.print(f"building the features of {dataset} and starting a stack")
    own = built_home(home, f"live/{name}", home, dataset, settings or {})
    watches = load_watches(own, dataset)["viewer_id"].drop_duplicates()
    viewers = [str(each) for each in watches.head(plan.hiding)]
    viewers += [f"stranger-{number}" for number in range(plan.hiding - len(viewers))]
    twin = make_twin(release, own.root / "twin")
    videos = pd.read_parquet(home.data(dataset) / "videos.parquet", columns=["video_id", "tags"])
    tags = {
        str(video): frozenset(map(str, tags))
        for video, tags in zip(videos["video_id"], videos["tags"], strict=True)
    }
    with Stack.of(own, release, twin, settings=settings).running() as stack:
        yield LiveStack(stack, dataset, plan, console, viewers, tags)
