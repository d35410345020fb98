"""The stack under test: features of its own, which events change, and two releases."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import numpy as np
from rich.console import Console

from bench.rows import Plan
from bench.site import Recorder, Site, opened_site
from bench.stack import PATIENCE, Stack
from vireo.server.home import Home
from vireo.server.recommend.filters.declared import CREATOR, label
from vireo.training.data.dataset import load_dataset
from vireo.training.data.schema import all_attributes, attribute_column

_FLOW_VIEWERS = 5_000
_COMMON = 200
"""Labels that filters are made of: the commonest, and as many at random."""
_TAG = label("tag", "")


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
    plan: Plan
    console: Console
    viewers: Sequence[str]
    """Viewers of the data set, then strangers."""
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

    def flow(self, rate: float) -> Recorder:
        """Record events of some thousand viewers at a rate a second, as long as a block lasts."""
        size = max(1, round(rate / 10))
        return Recorder(self.edge, self.videos, rate, PATIENCE, viewers=_FLOW_VIEWERS, size=size)
