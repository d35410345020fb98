from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.builders.watches import videos_frame, viewers_frame, watches_frame
from tests.training.retrieval.conftest import Tables
from vireo.training.features.watches import write_watches
from vireo.training.retrieval import data as retrieval_data
from vireo.training.retrieval import sequences
from vireo.training.retrieval.data import RetrievalData


def test_row_groups_end_at_viewer_boundaries_and_cover_everything(
    ring: RetrievalData, grouped: RetrievalData
) -> None:
    assert ring.sequences.group_count() == 2, "the last viewer is whole only at the end"
    assert grouped.sequences.group_count() > 5
    assert grouped.fingerprint() != ring.fingerprint(), "the digest is over the groups"
    assert grouped.viewer_ids == ring.viewer_ids
    for name in ("rows", "times", "offsets"):
        assert np.array_equal(getattr(grouped, name), getattr(ring, name))
    assert np.array_equal(grouped.attributes(), ring.attributes())
    assert np.array_equal(grouped.watch_counts(), ring.watch_counts())
    assert [one.target for one in grouped.validation] == [one.target for one in ring.validation]


def test_any_viewer_is_found_in_the_groups(ring: RetrievalData, grouped: RetrievalData) -> None:
    for viewer in (0, 30, 89):
        ours, theirs = grouped.viewer_features(viewer), ring.viewer_features(viewer)
        assert np.array_equal(ours.history_keys, theirs.history_keys)
        assert np.array_equal(ours.history_times, theirs.history_times)
        assert ours.attributes == theirs.attributes
    with pytest.raises(IndexError):
        grouped.viewer_features(90)


def test_streamed_watches_equal_those_of_the_frame(
    ring_tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequences, "GROUP_WATCHES", 100)
    watches, videos, viewers = ring_tables
    liked_time = pd.Series(pd.NaT, watches.index, dtype="datetime64[us, UTC]")
    write_watches(watches.assign(liked_time=liked_time), tmp_path / "watches.parquet")
    target = tmp_path / "checkpoints" / "sequences.parquet"

    streamed = RetrievalData.stream(tmp_path / "watches.parquet", videos, viewers, target)

    assert streamed.sequences.group_count() > 5
    assert streamed.fingerprint() == RetrievalData.build(*ring_tables).fingerprint()
    assert list(target.parent.iterdir()) == [target]


def test_a_viewer_with_more_watches_than_a_group_has_one_to_himself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sequences, "GROUP_WATCHES", 4)
    ids = [f"v{number}" for number in range(30)]
    frame = watches_frame({"a": ids[:3], "b": ids, "c": ids[:5]})

    data = RetrievalData.build(frame, videos_frame(ids), viewers_frame({}))

    assert np.diff(data.offsets).tolist() == [2, 29, 4]
    assert data.watched(1).tolist() == list(range(29))


def test_of_many_viewers_validation_asks_a_sample(
    ring_tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval_data, "VALIDATION_LIMIT", 20)

    first, second = (RetrievalData.build(*ring_tables).validation for _ in range(2))

    assert len(first) == 20
    assert [one.target for one in first] == [one.target for one in second]


def test_no_watches_make_a_file_without_groups() -> None:
    data = RetrievalData.build(watches_frame({}), videos_frame(["x", "y"]), viewers_frame({}))

    assert isinstance(data.sequences.source, pa.Buffer)
    assert (data.viewer_count, data.watch_count, data.validation) == (0, 0, ())
    assert data.watch_counts().tolist() == [0, 0]
    assert data.attributes().shape == (0, 16)
