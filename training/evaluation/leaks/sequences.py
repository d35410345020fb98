"""Leaks in the split itself and in what the towers are trained on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from training.evaluation.leaks.timeline import Timeline
from training.retrieval.data import RetrievalData
from training.retrieval.sequences import Watches

Int64Array = npt.NDArray[np.int64]


def check_split(timeline: Timeline) -> None:
    """A viewer's watches outside of the test part all come before those in it, each pair once."""
    late = ~timeline.test & (timeline.times >= timeline.test_times[timeline.viewers])
    again = timeline.find(timeline.viewers, timeline.rows) != np.arange(len(timeline.rows))
    for where, wrong in (("the split, at or after the test watch", late), ("the split", again)):
        if wrong.any():
            first = int(np.argmax(wrong))
            timeline.report(where, int(timeline.viewers[first]), int(timeline.rows[first]))


def check_retrieval_data(timeline: Timeline, data: RetrievalData) -> None:
    """The towers learn from the train part alone, and are measured on the validation part.

    Their files keep the two apart, and the order within each is time's: what a position reads
    is older than what it predicts.
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
    # A viewer's next watch has the next place or a later one.
    same = owners[1:] == owners[:-1]
    wrong[1:] |= same & (np.diff(places) <= 0)
    wrong |= timeline.times[places] // 1_000_000 != given.times
    if wrong.any():
        first = int(np.argmax(wrong))
        where = f"the towers' {part} sequences"
        timeline.report(where, int(owners[first]), int(given.rows[first]))
