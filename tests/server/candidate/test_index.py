from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vireo.server.recommend.retrieval.index import (
    VideoIndex,
    add,
    contains,
    every_row,
    mask_of,
    remove,
)
from vireo.server.releases.manifest import IndexDescription

COUNT, SIZE = 2000, 16
NONE = np.empty(0, np.int64)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(COUNT, SIZE)).astype(np.float32)


@pytest.fixture(scope="module", params=["exact", "ivf_int8"])
def file(
    request: pytest.FixtureRequest, vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    flat = faiss.IndexFlatIP(SIZE)
    index: faiss.Index = flat
    if request.param == "ivf_int8":
        index = faiss.IndexIVFScalarQuantizer(
            flat, SIZE, 32, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
        index.train(vectors)
    index.add(vectors)
    path = tmp_path_factory.mktemp(request.param) / "index.faiss"
    faiss.write_index(index, str(path))
    return path


def opened(file: Path, probes: int = 0) -> VideoIndex:
    approximate = file.parent.name.startswith("ivf_int8")
    description = IndexDescription(kind="ivf_int8" if approximate else "exact", probes=probes)
    return VideoIndex.read(file, description, COUNT, SIZE)


def best(vectors: np.ndarray, query: np.ndarray, excluded: np.ndarray) -> list[int]:
    scores = vectors @ query
    scores[excluded] = -np.inf
    order = np.argsort(-scores)
    return [int(row) for row in order if np.isfinite(scores[row])]


@pytest.mark.parametrize("excluded", [0, 1, 300, COUNT - 3, COUNT])
def test_the_nearest_come_without_the_excluded(
    file: Path, vectors: np.ndarray, excluded: int
) -> None:
    random = np.random.default_rng(excluded)
    query = random.normal(size=SIZE).astype(np.float32)
    without = random.permutation(COUNT)[:excluded]
    free = every_row(COUNT)
    remove(free, np.concatenate([without, without]))
    rows = opened(file).nearest(query, 20, free)
    wanted = best(vectors, query, without)[:20]
    # Half precision may change the places of two that are all but equally near.
    assert len(np.intersect1d(rows, wanted)) >= len(wanted) - 1
    assert len(rows) == len(wanted)


def test_cells_that_hold_too_few_are_not_all_that_is_searched(
    file: Path, vectors: np.ndarray
) -> None:
    query = vectors[7]
    rows = opened(file, probes=1).nearest(query, COUNT, None)
    assert sorted(rows) == list(range(COUNT))


def test_a_few_probes_search_less(tmp_path: Path, vectors: np.ndarray) -> None:
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(SIZE), SIZE, 32, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    few, all_cells = (
        VideoIndex(index, IndexDescription(kind="ivf_int8", probes=probes)) for probes in (1, 0)
    )
    query = np.random.default_rng(5).normal(size=SIZE).astype(np.float32)
    assert all_cells.nearest(query, 30, None).tolist() == best(vectors, query, NONE)[:30]
    assert few.nearest(query, 30, None).tolist() != best(vectors, query, NONE)[:30]


def test_nothing_is_nearest_in_an_empty_catalogue() -> None:
    index = VideoIndex(faiss.IndexFlatIP(SIZE), IndexDescription())
    assert len(index.nearest(np.ones(SIZE, np.float32), 5, None)) == 0


def test_the_vectors_are_mapped_from_the_file_and_not_copied(file: Path) -> None:
    index = opened(file)
    rows = index.nearest(np.ones(SIZE, np.float32), 5, None)
    assert len(rows) == 5
    mapped = [
        area
        for area in psutil.Process().memory_maps(grouped=False)
        if area.path == str(file.resolve())
    ]
    assert mapped, "searching reads the file's own pages"
    assert sum(area.anonymous for area in mapped) == 0, "no page of its own"


VIDEOS = 21
ROWS = st.lists(st.integers(0, VIDEOS - 1), max_size=30).map(lambda rows: np.array(rows, np.int64))


@given(ROWS, ROWS)
def test_a_set_has_what_was_added_last_or_not_removed(
    removed: np.ndarray, added: np.ndarray
) -> None:
    bits = every_row(VIDEOS)
    remove(bits, removed)
    add(bits, added)

    has = [row not in removed or row in added for row in range(VIDEOS)]
    assert contains(bits, np.arange(VIDEOS)).tolist() == has
    assert mask_of(bits, VIDEOS).tolist() == has
