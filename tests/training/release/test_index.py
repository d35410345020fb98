from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from vireo.server.recommend.retrieval.index import VideoIndex
from vireo.server.releases.manifest import IndexDescription
from vireo.training.release.tables import NEIGHBOURS, RECALL_WANTED, build_index, min_probes


def sample(count: int, seed: int) -> np.ndarray:
    centres = np.random.default_rng(0).normal(size=(40, 16))
    random = np.random.default_rng(seed)
    points = centres[random.integers(40, size=count)] + 0.5 * random.normal(size=(count, 16))
    return points.astype(np.float32)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return sample(6000, seed=1)


@pytest.fixture(scope="module")
def approximate(vectors: np.ndarray) -> tuple[faiss.Index, IndexDescription]:
    return build_index(vectors, sample(100, seed=2), exact_limit=1000)


def test_a_small_catalogue_is_searched_exactly(vectors: np.ndarray) -> None:
    index, description = build_index(vectors, sample(5, seed=2))
    query = vectors[:5] * 0.3
    _, rows = index.search(query, 10)
    assert np.array_equal(rows, np.argsort(-(query @ vectors.T), axis=1, kind="stable")[:, :10])
    assert (description.kind, description.recall) == ("exact", 1.0)


def test_a_large_catalogue_is_searched_with_the_recall_that_was_wanted(
    vectors: np.ndarray, approximate: tuple[faiss.Index, IndexDescription], tmp_path: Path
) -> None:
    index, description = approximate
    assert isinstance(index, faiss.IndexIVFScalarQuantizer)
    assert (description.kind, description.cells) == ("ivf_int8", index.nlist)
    assert 1 <= description.probes < index.nlist, "it must search less than everything"
    assert description.recall >= RECALL_WANTED
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    served = VideoIndex.read(tmp_path / "index.faiss", description, *vectors.shape)
    queries = sample(100, seed=3)
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :NEIGHBOURS]
    found = [served.nearest(query, NEIGHBOURS, None) for query in queries]
    recall = np.mean([len(np.intersect1d(*pair)) for pair in zip(exact, found, strict=True)])
    assert recall / NEIGHBOURS > RECALL_WANTED - 0.03


def test_few_cells_are_searched_even_if_norms_vary() -> None:
    random = np.random.default_rng(0)
    centres = random.normal(size=(100, 16)) * random.lognormal(sigma=0.5, size=(100, 1))
    points = centres[random.integers(100, size=20_000)] + 0.2 * random.normal(size=(20_000, 16))
    viewers = 3 * centres[random.integers(100, size=100)]
    index, description = build_index(
        points.astype(np.float32), viewers.astype(np.float32), exact_limit=1000
    )
    assert description.probes < index.nlist / 16
    assert description.recall >= RECALL_WANTED


def test_without_viewers_recall_is_measured_near_videos(vectors: np.ndarray) -> None:
    none = np.empty((0, vectors.shape[1]), np.float32)
    assert build_index(vectors, none, exact_limit=1000)[1].queries == 200


@pytest.mark.parametrize("needed", [1, 2, 3, 37, 96, 500])
def test_the_fewest_probes_are_found_within_a_sixteenth(needed: int) -> None:
    found = min_probes(lambda probes: float(probes >= needed), 1.0, 1024)
    assert needed <= found <= needed + max(1, found // 16)


def test_all_cells_are_searched_if_fewer_miss_the_recall() -> None:
    assert min_probes(lambda _: 0.0, 0.9, 24) == 24
