"""Leaks in the split itself and in the towers' data."""

from __future__ import annotations

import numpy as np

from server.arrays import Int64Array
from training.evaluation.leaks.timeline import Timeline
from training.retrieval.data import RetrievalData
from training.retrieval.sequences import Watches


def check_split(timeline: Timeline) -> None:
    """Check that all other watches of a viewer come before the test part, and that none repeats."""
    viewers, rows = timeline.viewers, timeline.rows
    late = ~timeline.test & (timeline.times >= timeline.test_times[viewers])
    timeline.forbid("the split, at or after the test watch", late, viewers, rows)
    repeated = timeline.find(viewers, rows) != np.arange(len(rows))
    timeline.forbid("the split", repeated, viewers, rows)


def check_retrieval_data(timeline: Timeline, data: RetrievalData) -> None:
    """Check that the towers learn from the train part alone and are validated on validation.

    The order within each part must be that of time: inputs of a position are older than its target.
    """
    numbers = timeline.viewer_numbers(data.viewer_ids)
    start = 0
    for group in data.sequences.groups():
        viewers = numbers[start : start + len(group.attributes)]
        start += len(viewers)
        _check_sequences(timeline, "train", viewers, group.train)
        _check_sequences(timeline, "validation", viewers, group.held_out)


def _check_sequences(timeline: Timeline, part: str, viewers: Int64Array, given: Watches) -> None:
    owners = np.repeat(viewers, np.diff(given.offsets))
    places = timeline.find(owners, given.rows)
    wrong = (places < 0) | (timeline.parts[places] != part)
    # Places of a viewer's watches ascend with time.
    same = owners[1:] == owners[:-1]
    wrong[1:] |= same & (np.diff(places) <= 0)
    wrong |= timeline.times[places] // 1_000_000 != given.times
    timeline.forbid(f"the towers' {part} sequences", wrong, owners, given.rows)
