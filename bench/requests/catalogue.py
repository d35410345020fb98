"""The videos of a data set with their attributes, and random filters of them."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vireo.server.home import Home
from vireo.server.recommend.filters.declared import CREATOR, Declared, label
from vireo.server.recommend.filters.expression import FilterExpression
from vireo.training.data.attributes import all_attributes, attribute_column
from vireo.training.data.dataset import load_dataset
from vireo.v1 import filter_pb2

_COMMON = 200
"""Labels and numbers that filters are made of: the commonest, and as many at random."""
_MAX_DEPTH = 3


@dataclass(frozen=True)
class Attributes:
    """What is known of one video."""

    labels: frozenset[str]
    """Each "attribute=value"."""
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Catalogue:
    """Every video by its id."""

    videos: Mapping[str, Attributes]
    declared: Declared
    labels: Sequence[tuple[str, str]]
    """(attribute, value) pairs to make filters of."""
    numbers: Mapping[str, Sequence[float]]
    """Numbers to make bounds of, by attribute; ascending."""

    @staticmethod
    def load(home: Home, dataset: str, draw: random.Random) -> Catalogue:
        """Read a data set's videos; raise VireoError if there is none."""
        loaded = load_dataset(home, dataset)
        declared = all_attributes(loaded.attributes)
        columns = {name: attribute_column(name) for name in (*declared.labels, *declared.numbers)}
        table = loaded.video_columns("video_id", *columns.values())
        videos = {
            str(row["video_id"]): _attributes(row, declared, columns) for row in table.to_pylist()
        }
        counts = Counter(each for video in videos.values() for each in video.labels)
        ordered = [each for each, _ in counts.most_common()]
        chosen = ordered[:_COMMON]
        chosen += draw.sample(ordered[_COMMON:], min(_COMMON, len(ordered[_COMMON:])))
        numbers = {
            name: sorted(
                number
                for video in videos.values()
                if (number := video.numbers.get(name)) is not None
            )
            for name in declared.numbers
        }
        return Catalogue(
            videos,
            declared,
            [(name, value) for name, _, value in (each.partition("=") for each in chosen)],
            {name: values for name, values in numbers.items() if values},
        )

    def allowed(self, expression: FilterExpression) -> set[str]:
        """Return the ids of the videos for which a filter holds."""
        return {
            video_id
            for video_id, video in self.videos.items()
            if expression.holds(video.labels, video.numbers)
        }

    def random_filter(self, draw: random.Random, depth: int = 1) -> filter_pb2.Filter:
        """Return a filter of the catalogue's attributes; few are contradictory."""
        made = filter_pb2.Filter()
        for _ in range(draw.choice((0, 1, 1, 2)) if depth < _MAX_DEPTH else 1):
            made.conditions.append(self._condition(draw))
        if depth < _MAX_DEPTH:
            for _ in range(draw.choice((0, 0, 1, 2, 3))):
                made.any.append(self.random_filter(draw, depth + 1))
            for _ in range(draw.choice((0, 0, 1))):
                made.none.append(self.random_filter(draw, depth + 1))
        if not (made.conditions or made.any or made.none):
            made.conditions.append(self._condition(draw))
        return made

    def _condition(self, draw: random.Random) -> filter_pb2.Condition:
        if self.numbers and draw.random() < 0.3:
            name = draw.choice(sorted(self.numbers))
            low, high = sorted(draw.choices(self.numbers[name], k=2))
            made = filter_pb2.Condition(attribute=name)
            if draw.random() < 0.7:
                made.min = low
            if draw.random() < 0.7 or not made.HasField("min"):
                made.max = high
            return made
        name, value = draw.choice(self.labels)
        same = [each for attribute, each in self.labels if attribute == name]
        values = {value, *draw.choices(same, k=draw.randrange(4))}
        made = filter_pb2.Condition(attribute=name)
        match draw.choice(("any_of", "any_of", "none_of", "all_of")):
            case "any_of":
                made.any_of.extend(sorted(values))
            case "none_of":
                made.none_of.extend(sorted(values))
            case _:
                made.all_of.append(value)
        return made


def _attributes(
    row: Mapping[str, Any], declared: Declared, columns: Mapping[str, str]
) -> Attributes:
    labels, numbers = set[str](), dict[str, float]()
    for name in declared.labels:
        values = row.get(columns[name]) or ()
        texts = [values] if name == CREATOR else values
        labels.update(label(name, each) for each in texts if each)
    for name in declared.numbers:
        value = row.get(columns[name])
        if isinstance(value, datetime):
            value = value.timestamp()
        if value is not None and math.isfinite(value):
            numbers[name] = value
    return Attributes(frozenset(labels), numbers)
