"""The attributes of a tiny release's videos."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import numpy as np

from vireo.server.recommend.filters.declared import Declared
from vireo.server.releases import layout
from vireo.server.releases.tables import write_texts

DECLARED = Declared(("creator", "language", "tag"), ("age_rating", "duration", "published"))
"""What tiny releases declare."""
DAY = 86_400
RATINGS = (0.0, 6.0, 12.0, 16.0, 18.0)


def labels_of(row: int, creators: int) -> set[str]:
    """Labels of a tiny release's video: a tag, a creator, and of most a language."""
    labels = {f"tag={('cat', 'dog', 'fish')[row % 3]}", f"creator=creator-{row % creators}"}
    return labels if row % 7 == 6 else labels | {f"language={('de', 'en')[row % 2]}"}


def numbers_of(row: int) -> dict[str, float]:
    """Numbers of a tiny release's video; some aren't known."""
    return {
        "age_rating": math.nan if row % 4 == 3 else RATINGS[row % 5],
        "duration": 60.0 * row,
        "published": math.nan if row % 9 == 8 else 1e9 + row * DAY,
    }


def write_attributes(
    folder: Path,
    declared: Declared,
    labels: Sequence[Set[str]],
    numbers: Sequence[Mapping[str, float]],
    popular: Sequence[int],
) -> None:
    """Write the attributes' files of a release.

    Args:
        folder: the release's.
        declared: the names of its attributes.
        labels: labels of each video by row.
        numbers: numbers of each video by row.
        popular: rows of the popular list.
    """
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, mine in enumerate(labels):
        for label in mine:
            rows[label].append(row)
    names = sorted(rows)
    columns = [[each.get(name, math.nan) for name in declared.numbers] for each in numbers]
    heads = [
        {
            "labels": sorted(labels[row]),
            "numbers": {
                name: value for name, value in numbers[row].items() if not math.isnan(value)
            },
        }
        for row in popular
    ]
    document = {"labels": declared.labels, "numbers": declared.numbers}
    (folder / layout.ATTRIBUTES).write_text(json.dumps(document))
    (folder / layout.POPULAR_ATTRIBUTES).write_text(json.dumps(heads))
    write_texts(folder / layout.LABELS, names)
    np.save(folder / layout.LABEL_OFFSETS, np.cumsum([0, *(len(rows[name]) for name in names)]))
    every = [row for name in names for row in rows[name]]
    np.save(folder / layout.LABEL_ROWS, np.array(every, np.int32))
    shape = (len(numbers), len(declared.numbers))
    np.save(folder / layout.NUMBERS, np.array(columns, np.float64).reshape(shape))
