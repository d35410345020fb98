from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from vireo.server.features.model_inputs import tower_inputs
from vireo.server.features.viewer import ViewerFeatures
from vireo.training.retrieval.config import RetrievalConfig
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.windows import Windows, epoch_batches


@pytest.fixture(scope="module")
def windows(ring: RetrievalData) -> Windows:
    return Windows(ring.train, ring.attributes, 4, 64)


@pytest.fixture(scope="module")
def batches(windows: Windows) -> list[npt.NDArray[np.int64]]:
    return windows.batches(np.random.default_rng(1))


def test_every_watch_is_a_target_once_in_a_window_of_one_viewer(
    ring: RetrievalData, windows: Windows, batches: list[npt.NDArray[np.int64]]
) -> None:
    offsets = ring.train.offsets
    every = np.concatenate(batches)
    covered = np.concatenate([np.arange(start, stop) for _, start, stop in every])
    assert sorted(covered) == list(range(ring.watch_count))
    for viewer, start, stop in every:
        assert offsets[viewer] <= start < stop <= min(start + 5, offsets[viewer + 1])
    assert max(windows.encode(batch).targets.size for batch in batches) <= 64


def test_windows_differ_by_epoch_and_repeat_by_seed(
    ring: RetrievalData, small: RetrievalConfig
) -> None:
    def targets(seed: int, epoch: int) -> bytes:
        batches = epoch_batches(ring, replace(small, seed=seed), epoch)
        return b"".join(batch.encode().targets.tobytes() for batch in batches)

    assert targets(1, 0) == targets(1, 0)
    assert len({targets(1, 0), targets(1, 1), targets(2, 0)}) == 3


def test_a_window_is_encoded_as_serving_encodes_the_same_history(
    ring: RetrievalData, windows: Windows, batches: list[npt.NDArray[np.int64]]
) -> None:
    rows, times, batch = ring.train.rows, ring.train.times, batches[0]
    viewers = [
        ViewerFeatures(
            history_keys=ring.keys[rows[start : stop - 1]],
            history_times=times[start : stop - 1],
            attributes=ring.viewer_features(viewer).attributes,
            asked_at=int(times[stop - 1]),
        )
        for viewer, start, stop in batch
    ]
    served = tower_inputs(viewers, ring.video_rows, ring.vocabulary, 4)
    trained = windows.encode(batch)
    # A batch of single watches has no history at all, serving pads it to one.
    width = trained.history.shape[1]
    assert np.array_equal(trained.history, served["history"][:, :width])
    lengths = served["lengths"]
    assert trained.gaps.shape == trained.targets.shape
    assert np.array_equal(trained.gaps[np.arange(len(batch)), lengths], served["asked_gap"])
    read = np.arange(width) < lengths[:, None]
    assert np.array_equal(np.where(read, trained.gaps[:, :-1], 0), served["gaps"][:, :width])
    assert np.array_equal(trained.attributes, served["attributes"])
    for row, (_, start, stop) in enumerate(batch):
        assert trained.targets[row, : stop - start].tolist() == rows[start:stop].tolist()
        assert (trained.targets[row, stop - start :] == -1).all()


@pytest.mark.parametrize("together", [1, 300, 10_000])
def test_an_epoch_has_every_watch_once_and_holds_few_more_than_are_shuffled_together(
    grouped: RetrievalData, small: RetrievalConfig, together: int
) -> None:
    batches = list(epoch_batches(grouped, replace(small, shuffle_watches=together), 0))
    targets = np.concatenate([batch.encode().targets.ravel() for batch in batches])
    assert np.sort(targets[targets >= 0]).tolist() == np.sort(grouped.train.rows).tolist()
    sizes = {id(batch.windows): len(batch.windows.watches.rows) for batch in batches}
    largest = max(len(group) for group in grouped.groups) * 12
    assert max(sizes.values()) < together + largest
