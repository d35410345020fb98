from __future__ import annotations

import numpy as np
import pytest

from tests.builders.watches import videos_frame, viewers_frame, watches_frame
from vireo.training.retrieval import first_vectors as module
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.first_vectors import SPREAD, first_vectors, mutual_information


@pytest.fixture(scope="module")
def two_worlds() -> RetrievalData:
    """Viewers watch some of the even videos, or some of the odd ones; v20 is unwatched."""
    ids = [f"v{row}" for row in range(21)]
    random = np.random.default_rng(0)
    walks = {
        f"viewer-{number:02}": [ids[2 * row + number % 2] for row in random.permutation(10)[:5]]
        for number in range(40)
    }
    return RetrievalData.build(watches_frame(walks), videos_frame(ids), viewers_frame({}))


def vectors_of(data: RetrievalData, seed: int = 0) -> np.ndarray:
    vectors = first_vectors(data, 4, seed)
    assert vectors is not None
    return vectors


def test_videos_of_one_world_start_nearer_to_each_other_than_to_the_other_world(
    two_worlds: RetrievalData,
) -> None:
    vectors = vectors_of(two_worlds)
    assert vectors.shape == (21, 4)
    assert vectors.dtype == np.float32
    assert vectors.std() == pytest.approx(SPREAD, rel=0.1)
    likeness = vectors @ vectors.T
    even, odd = likeness[0, 2:20:2], likeness[0, 1:20:2]
    assert even.max() > 0
    assert even.mean() > odd.mean()
    assert np.allclose(vectors[20], 0, atol=1e-6)


def test_information_is_symmetric_and_of_pairs_watched_near_each_other_the_nearest_first(
    two_worlds: RetrievalData, monkeypatch: pytest.MonkeyPatch
) -> None:
    information = mutual_information(two_worlds)
    assert information.dtype == np.float32
    dense = information.toarray()  # type: ignore[no-untyped-call]
    assert np.allclose(dense, dense.T)
    assert dense[0, 2:20:2].max() > 0
    assert not dense[::2, 1::2].any()
    assert not dense[20].any()
    # Each viewer has four watches in training: three pairs are a step apart, of six.
    monkeypatch.setattr(module, "PAIRS", two_worlds.watch_count)
    assert 0 < mutual_information(two_worlds).nnz < information.nnz
    monkeypatch.setattr(module, "PAIRS", 1)
    assert mutual_information(two_worlds).nnz > 0


def test_the_seed_turns_the_start(two_worlds: RetrievalData) -> None:
    first, again, other = (vectors_of(two_worlds, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)
    # Only turned: how near videos are to each other stays.
    assert np.allclose(first @ first.T, other @ other.T, atol=1e-6)


def test_too_few_videos_or_watches_give_no_start(two_worlds: RetrievalData) -> None:
    assert first_vectors(two_worlds, 21, seed=0) is None
    walks = watches_frame({"a": ["v0"], "b": ["v1"]})
    lonely = RetrievalData.build(walks, videos_frame(["v0", "v1", "v2"]), viewers_frame({}))
    assert first_vectors(lonely, 2, seed=0) is None
