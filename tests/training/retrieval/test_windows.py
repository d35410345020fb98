from __future__ import annotations

import numpy as np

from server.features.tower_inputs import tower_inputs
from server.features.viewer import ViewerFeatures
from training.retrieval.data import RetrievalData
from training.retrieval.windows import Windows


def test_every_watch_is_a_target_exactly_once_an_epoch(ring: RetrievalData) -> None:
    windows = Windows(ring, history_limit=4, batch_tokens=64)

    batches = windows.batches(seed=1, epoch=0)

    covered = np.concatenate(
        [np.arange(start, stop) for batch in batches for _, start, stop in batch]
    )
    assert sorted(covered) == list(range(len(ring.rows)))
    assert all((batch[:, 2] - batch[:, 1]).max() <= 5 for batch in batches)


def test_no_window_mixes_two_viewers(ring: RetrievalData) -> None:
    windows = Windows(ring, history_limit=4, batch_tokens=64)

    for viewer, start, stop in np.concatenate(windows.batches(seed=1, epoch=0)):
        assert ring.offsets[viewer] <= start < stop <= ring.offsets[viewer + 1]


def test_batches_hold_at_most_the_tokens_allowed(ring: RetrievalData) -> None:
    windows = Windows(ring, history_limit=50, batch_tokens=64)

    sizes = [windows.encode(batch).targets.size for batch in windows.batches(seed=1, epoch=0)]

    assert max(sizes) <= 64


def test_offsets_differ_by_epoch_and_repeat_by_seed(ring: RetrievalData) -> None:
    windows = Windows(ring, history_limit=4, batch_tokens=64)

    def cut(seed: int, epoch: int) -> bytes:
        return np.concatenate(windows.batches(seed, epoch)).tobytes()

    assert cut(1, 0) == cut(1, 0)
    assert cut(1, 0) != cut(1, 1)
    assert cut(1, 0) != cut(2, 0)


def test_a_window_is_encoded_as_serving_encodes_the_same_history(ring: RetrievalData) -> None:
    windows = Windows(ring, history_limit=4, batch_tokens=64)
    batch = windows.batches(seed=1, epoch=0)[0]
    viewers = [
        ViewerFeatures(
            history_keys=ring.keys[ring.rows[start : stop - 1]],
            history_times=ring.times[start : stop - 1],
            attributes=ring.profiles[viewer],
        )
        for viewer, start, stop in batch
    ]
    served = tower_inputs(viewers, ring.video_rows(), ring.vocabulary, 4)

    trained = windows.encode(batch)

    # A batch of single watches has no history at all, serving pads it to one.
    width = trained.history.shape[1]
    assert np.array_equal(trained.history, served["history"][:, :width])
    assert np.array_equal(trained.gaps, served["gaps"][:, :width])
    assert np.array_equal(trained.attributes, served["attributes"])
    for row, (_, start, stop) in enumerate(batch):
        assert trained.targets[row, : stop - start].tolist() == ring.rows[start:stop].tolist()
        assert (trained.targets[row, stop - start :] == -1).all()
