from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from vireo.server.features.tower_inputs import tower_inputs
from vireo.server.features.viewer import ViewerFeatures
from vireo.training.retrieval.config import RetrievalConfig
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.sequences import Watches
from vireo.training.retrieval.windows import Windows, epoch_batches


def windows_of(data: RetrievalData, history_limit: int, batch_tokens: int = 64) -> Windows:
    whole = Watches(data.rows, data.times, data.offsets, np.empty((data.watch_count, 0), np.int64))
    return Windows(whole, data.attributes(), history_limit, batch_tokens)


def cut(windows: Windows, seed: int = 1) -> list[npt.NDArray[np.int64]]:
    return windows.batches(np.random.default_rng(seed))


def test_every_watch_is_a_target_exactly_once_an_epoch(ring: RetrievalData) -> None:
    windows = windows_of(ring, history_limit=4)

    batches = cut(windows)

    covered = np.concatenate(
        [np.arange(start, stop) for batch in batches for _, start, stop in batch]
    )
    assert sorted(covered) == list(range(len(ring.rows)))
    assert all((batch[:, 2] - batch[:, 1]).max() <= 5 for batch in batches)


def test_no_window_mixes_two_viewers(ring: RetrievalData) -> None:
    windows = windows_of(ring, history_limit=4)

    for viewer, start, stop in np.concatenate(cut(windows)):
        assert ring.offsets[viewer] <= start < stop <= ring.offsets[viewer + 1]


def test_batches_hold_at_most_the_tokens_allowed(ring: RetrievalData) -> None:
    windows = windows_of(ring, history_limit=50)

    sizes = [windows.encode(batch).targets.size for batch in cut(windows)]

    assert max(sizes) <= 64


def test_offsets_differ_by_epoch_and_repeat_by_seed(
    ring: RetrievalData, small: RetrievalConfig
) -> None:
    def targets(seed: int, epoch: int) -> bytes:
        batches = epoch_batches(ring.sequences, replace(small, seed=seed), epoch)
        return b"".join(batch.encode().targets.tobytes() for batch in batches)

    assert targets(1, 0) == targets(1, 0)
    assert targets(1, 0) != targets(1, 1)
    assert targets(1, 0) != targets(2, 0)


def test_a_window_is_encoded_as_serving_encodes_the_same_history(ring: RetrievalData) -> None:
    windows = windows_of(ring, history_limit=4)
    batch = cut(windows)[0]
    viewers = [
        ViewerFeatures(
            history_keys=ring.keys[ring.rows[start : stop - 1]],
            history_times=ring.times[start : stop - 1],
            attributes=ring.viewer_features(viewer).attributes,
            asked_at=int(ring.times[stop - 1]),
        )
        for viewer, start, stop in batch
    ]
    served = tower_inputs(viewers, ring.video_rows(), ring.vocabulary, 4)

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
        assert trained.targets[row, : stop - start].tolist() == ring.rows[start:stop].tolist()
        assert (trained.targets[row, stop - start :] == -1).all()


def test_an_epoch_has_every_watch_once_however_few_are_shuffled_together(
    grouped: RetrievalData, small: RetrievalConfig
) -> None:
    expected = np.sort(grouped.rows).tolist()
    for together in (1, 300, 10_000):
        batches = epoch_batches(grouped.sequences, replace(small, shuffle_watches=together), 0)

        targets = np.concatenate([batch.encode().targets.ravel() for batch in batches])

        assert np.sort(targets[targets >= 0]).tolist() == expected


def test_no_more_watches_are_held_than_are_shuffled_together(
    grouped: RetrievalData, small: RetrievalConfig
) -> None:
    config = replace(small, shuffle_watches=300)
    largest = max(len(group.train.rows) for group in grouped.sequences.groups())

    held = {
        id(batch.windows): batch.windows for batch in epoch_batches(grouped.sequences, config, 0)
    }

    sizes = [len(windows.watches.rows) for windows in held.values()]
    assert len(sizes) > 2
    assert max(sizes) < 300 + largest
