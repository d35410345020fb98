"""The stack under test: features of its own, which events change, and two releases."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import numpy as np
from rich.console import Console

from bench.site import Recorder, Site, opened_site
from bench.stack import PATIENCE, Stack, built_home, make_twin
from vireo.ops.stack.state import Layout
from vireo.server.home import Home
from vireo.server.recommend.filters.declared import CREATOR, label
from vireo.training.data.dataset import load_dataset
from vireo.training.data.schema import all_attributes, attribute_column
from vireo.training.features.watches import load_watches

SETTINGS = {
    # How long pods keep the previous release; the default is too long to wait for 20 times.
    "VIREO_KEEP_PREVIOUS_SECONDS": "5",
    # The edge knows callers by the address that they state.
    "VIREO_TRUSTED_HOPS": "1",
}
_FLOW_VIEWERS = 5_000
_COMMON = 200
"""Labels that filters are made of: the commonest, and as many at random."""
_TAG = label("tag", "")


@dataclass(frozen=True)
class LivePlan:
    """How much of each measurement there is. All times in seconds."""

    rate: float = 1_000.0
    """Events a second that come in beside."""
    timed: bool = True
    """Whether times are judged; a busy machine has none to judge."""

    viewers: int = 200
    """Viewers whose plays are timed."""
    hiding: int = 1_000
    """Viewers who hide a video."""
    videos: int = 20
    """Videos that are added and timed."""
    upserts: int = 100_000
    """Videos that are added for pods' memory."""
    rounds: int = 11
    """Rounds of slates with and without something beside them: short ones, so that what else the
    machine does meets both alike."""
    seconds: float = 3.0
    """Length of each."""
    swaps: int = 20
    """Promotions, back and forth."""
    layout: Layout = "separate"
    """The stack's."""
    swap_rate: float = 60.0
    """Slates a second meanwhile."""
    swap_deadline: float = 2.0
    """Deadline of each of these slates, seconds."""
    stores: tuple[str, ...] = ("sqlite", "redis")
    """Online stores with which plays are timed."""

    positions: int = 1_000_000
    """Positions of slates that are compared with their filters."""
    max_degraded: float = 0.5
    """Maximum share of filtered slates that are degraded: fallback alone must not pass."""
    readers: int = 1_000
    """Viewers who ask for page after page."""
    pages: int = 50
    """Pages of each."""
    callers: int = 8
    """Requests at a time."""
    calm: float = 4.0
    """Pause between two faults."""
    batch: int = 3_000
    """Viewers of the batch whose gateways are killed."""
    greedy_rounds: int = 3
    """Rounds beside each kind of greedy caller."""

    def judged(self, bound: float) -> float | None:
        """Return the bound of a time or rate; None if none are judged."""
        return bound if self.timed else None


SHORT = LivePlan(
    rate=200.0,
    timed=False,
    viewers=20,
    hiding=20,
    videos=3,
    upserts=1_000,
    rounds=1,
    seconds=0.5,
    swaps=4,
    swap_rate=20.0,
    swap_deadline=20.0,
    stores=("sqlite",),
    positions=20_000,
    max_degraded=0.9,  # all may be asked for during one fault
    readers=10,
    calm=1.0,
    batch=300,
    greedy_rounds=1,
)
"""For CI: everything once and briefly; no time is judged."""


@dataclass(frozen=True)
class Catalogue:
    """What a data set says of its videos."""

    videos: Mapping[str, tuple[frozenset[str], Mapping[str, float]]]
    """Labels, each "attribute=value", and numbers of each video by its id."""

    @staticmethod
    def load(home: Home, dataset: str) -> Catalogue:
        """Read a data set's videos; raise VireoError if there is none."""
        loaded = load_dataset(home, dataset)
        declared = all_attributes(loaded.info.attributes)
        columns = {name: attribute_column(name) for name in (*declared.labels, *declared.numbers)}
        videos = {}
        for row in loaded.video_columns("video_id", *columns.values()).to_pylist():
            labels, numbers = set[str](), dict[str, float]()
            for name in declared.labels:
                values = row.get(columns[name]) or ()
                texts = [values] if name == CREATOR else values
                labels.update(label(name, each) for each in texts if each)
            for name in declared.numbers:
                value = row.get(columns[name])
                value = value.timestamp() if isinstance(value, datetime) else value
                if value is not None and np.isfinite(value):
                    numbers[name] = value
            videos[str(row["video_id"])] = (frozenset(labels), numbers)
        return Catalogue(videos)

    @cached_property
    def labels(self) -> Mapping[str, Sequence[str]]:
        """Values to make filters of, by attribute."""
        counts = Counter(each for labels, _ in self.videos.values() for each in labels)
        ordered = [each for each, _ in counts.most_common()]
        rare = ordered[_COMMON:]
        some = random.Random(1).sample(rare, min(_COMMON, len(rare)))  # noqa: S311
        labels: dict[str, list[str]] = {}
        for name, _, value in (each.partition("=") for each in ordered[:_COMMON] + some):
            labels.setdefault(name, []).append(value)
        return labels

    @cached_property
    def numbers(self) -> Mapping[str, Sequence[float]]:
        """Numbers to make bounds of, by attribute."""
        numbers: dict[str, list[float]] = {}
        for _, known in self.videos.values():
            for name, number in known.items():
                numbers.setdefault(name, []).append(number)
        return numbers


@dataclass(frozen=True)
class LiveStack:
    """A stack that serves two releases of a data set, the first at first."""

    stack: Stack
    dataset: str
    plan: LivePlan
    console: Console
    viewers: Sequence[str]
    """Viewers of the data set, then strangers, as many as hide a video."""
    catalogue: Catalogue

    @property
    def edge(self) -> str:
        """host:port."""
        return self.stack.settings.edge

    @cached_property
    def videos(self) -> list[str]:
        """Ids of the data set's videos."""
        return list(self.catalogue.videos)

    @cached_property
    def tags(self) -> Mapping[str, frozenset[str]]:
        """Tags of each video of the data set."""
        return {
            video: frozenset(each.removeprefix(_TAG) for each in labels if each.startswith(_TAG))
            for video, (labels, _) in self.catalogue.videos.items()
        }

    def site(self) -> AbstractAsyncContextManager[Site]:
        """Open a connection to the edge."""
        return opened_site(self.edge, PATIENCE)

    def flow(self) -> Recorder:
        """Record events of some thousand viewers at the plan's rate, as long as a block lasts."""
        rate, size = self.plan.rate, max(1, round(self.plan.rate / 10))
        return Recorder(self.edge, self.videos, rate, PATIENCE, viewers=_FLOW_VIEWERS, size=size)


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
    settings = {**SETTINGS, "VIREO_LAYOUT": plan.layout, **(settings or {})}
    release = home.trained_release(dataset)
    console.print(f"building the features of {dataset} and starting a stack")
    own = built_home(home, f"live/{name}", dataset, settings)
    watches = load_watches(own, dataset)["viewer_id"].drop_duplicates()
    viewers = [str(each) for each in watches.head(plan.hiding)]
    viewers += [f"stranger-{number}" for number in range(plan.hiding - len(viewers))]
    twin = make_twin(release, own.root / "twin")
    catalogue = Catalogue.load(home, dataset)
    with Stack.of(own, release, twin, settings=settings).running() as stack:
        yield LiveStack(stack, dataset, plan, console, viewers, catalogue)
