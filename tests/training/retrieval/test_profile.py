from __future__ import annotations

import numpy as np

from tests.builders.watches import videos_frame, viewers_frame, watches_frame
from training.retrieval.data import RetrievalData
from training.retrieval.profile import profile_table


def test_an_attribute_leads_to_what_its_viewers_watch_more_than_others() -> None:
    sequences = {"1": ["a", "b"], "2": ["a", "b"], "3": ["b", "c"], "4": ["b", "c"]}
    data = RetrievalData.build(
        watches_frame(sequences, held_out=0),
        videos_frame(list("abc")),
        viewers_frame({"1": ["x"], "2": ["x"], "3": ["y"], "4": ["y"]}),
    )
    rows, weights = profile_table(data, k=2)
    place = data.vocabulary["x"] - 1
    assert rows.shape == weights.shape == (len(data.vocabulary), 2)
    assert data.video_ids[rows[place, 0]] == "a"
    # Watches of a by viewers of x: 2; expected, a quarter of their 4.
    assert weights[place, 0] == np.float32(1 / np.sqrt(1 + 5))
    assert weights[place, 1] == 0, "b is watched as much by others"
