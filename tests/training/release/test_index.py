from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from training.release.index import NEIGHBOURS, RECALL_WANTED, build_index


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    random = np.random.default_rng(0)
    centres = random.normal(size=(40, 16))
    points = centres[random.integers(40, size=6000)] + 0.5 * random.normal(size=(6000, 16))
    return points.astype(np.float32)


def test_a_small_catalogue_is_searched_exactly(vectors: np.ndarray) -> None:
    index = build_index(vectors)
    query = vectors[:5] * 0.3
    _, rows = index.search(query, 10)
    assert np.array_equal(rows, np.argsort(-(query @ vectors.T), axis=1, kind="stable")[:, :10])


def test_a_large_catalogue_is_searched_with_the_recall_that_was_wanted(
    vectors: np.ndarray, tmp_path: Path
) -> None:
    path = str(tmp_path / "index.faiss")
    faiss.write_index(build_index(vectors, exact_limit=1000), path)
    index = faiss.read_index(path)
    assert isinstance(index, faiss.IndexIVFScalarQuantizer)
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    assert 1 <= index.nprobe < index.nlist, "it must search less than everything"
    random = np.random.default_rng(9)
    queries = vectors[random.integers(len(vectors), size=(100, 3))].mean(1)
    _, found = index.search(queries, NEIGHBOURS)
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :NEIGHBOURS]
    recall = np.mean([len(np.intersect1d(*pair)) for pair in zip(exact, found, strict=True)])
    assert recall / NEIGHBOURS > RECALL_WANTED - 0.03
