"""The search by a filter: its listed rows one by one, those of the near cells, or the index."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from tests.builders.cells import index_in_cells
from tests.builders.releases import build_release
from tests.builders.viewers import viewer_of_rows
from vireo.server.arrays import BoolArray, Float32Array, Int64Array
from vireo.server.recommend.filters.expression import FilterExpression
from vireo.server.recommend.retrieval import sources
from vireo.server.recommend.retrieval.allowed import AppliedFilter
from vireo.server.recommend.retrieval.index import VideoIndex, add, remove
from vireo.server.recommend.retrieval.pipeline import CandidateQuery
from vireo.server.recommend.retrieval.query import Retrieval
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.recommend.retrieval.sources import popular, two_tower
from vireo.server.releases.manifest import IndexDescription

COUNT, SIZE, CELLS = 4000, 16, 64
NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class Catalogue:
    """Random vectors, and a release that has them."""

    vectors: Float32Array
    cell: Int64Array
    """Cell of each vector, int64[COUNT]."""
    release: CandidateRelease

    @property
    def index(self) -> VideoIndex:
        return self.release.index

    def applied(self, mask: BoolArray) -> AppliedFilter:
        """Return a filter that holds for the videos of a mask."""
        return AppliedFilter(FilterExpression(), mask, self.index)

    def asked(
        self, mask: BoolArray, blocked: Int64Array, also: Int64Array, vector: Float32Array
    ) -> Retrieval:
        """Return a query of a viewer with that vector, for the videos of a mask and some more."""
        query, applied = CandidateQuery(viewer_of_rows(), 0), self.applied(mask)
        applied.allowed_rows = also
        asked = Retrieval(self.release, query, query.viewer, NONE, NONE, blocked, applied)
        vars(asked)["vector"] = vector
        return asked

    def nearest(self, rows: Int64Array, vector: Float32Array) -> list[int]:
        """Return rows by their inner products with a vector, the largest first."""
        ordered: list[int] = rows[np.argsort(-(self.vectors[rows] @ vector))].tolist()
        return ordered

    def probed(self, mask: BoolArray, vector: Float32Array, limit: int) -> BoolArray:
        """Return which vectors are in the cells that a search by the mask probes."""
        counts = self.applied(mask).cell_counts
        return np.isin(self.cell, self.index.cells_worth_probing(vector, limit, counts))


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(COUNT, SIZE)).astype(np.float32)
    made = index_in_cells(vectors, CELLS)
    release = replace(
        CandidateRelease.load(build_release(tmp_path_factory.mktemp("catalogue"))),
        keys=random.permutation(COUNT),
        vectors=vectors,
        index=VideoIndex(made, IndexDescription(kind="ivf_int8", cells=CELLS, probes=16)),
        popularity=random.random(COUNT).astype(np.float32),
    )
    return Catalogue(vectors, made.quantizer.search(vectors, 1)[1][:, 0], release)


def some(share: float, seed: int = 1) -> BoolArray:
    """Return a mask of a share of the videos at random."""
    return np.random.default_rng(seed).random(COUNT) < share


def test_few_videos_are_all_compared(catalogue: Catalogue) -> None:
    mask, vector = some(0.2), catalogue.vectors[7]
    blocked, also = mask.nonzero()[0][:300], (~mask).nonzero()[0][:50]
    asked = catalogue.asked(mask, blocked, also, vector)
    rows = np.concatenate([mask.nonzero()[0][300:], also])
    assert two_tower(asked, 100).tolist() == catalogue.nearest(rows, vector)[:100]
    assert len(two_tower(asked, COUNT)) == len(rows)


def test_of_more_videos_those_of_the_near_cells_are_compared(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_LOOKED_UP", 500)
    # Without this, a search that lists nothing would pass: the index's finds the same.
    monkeypatch.setattr(VideoIndex, "nearest_in", None)
    mask, vector = some(0.2), catalogue.vectors[7]
    probed = catalogue.probed(mask, vector, 20)
    near, far = (mask & probed).nonzero()[0], (~mask & ~probed).nonzero()[0]
    assert 80 <= len(near) <= 500 < mask.sum()
    blocked, also = np.array(catalogue.nearest(near, vector)[:5]), far[:3]

    found = two_tower(catalogue.asked(mask, blocked, also, vector), 20)

    rows = np.concatenate([near[~np.isin(near, blocked)], also])
    assert found.tolist() == catalogue.nearest(rows, vector)[:20]
    high = np.array(catalogue.nearest(far, vector)[:3])
    found = two_tower(catalogue.asked(mask, blocked, high, 3 * vector), len(rows))
    assert set(high) <= set(found), "what came in since is compared wherever it lies"


@pytest.mark.parametrize(
    ("limit", "unused"), [(4, (AppliedFilter, "rows_in")), (400, (VideoIndex, "nearest_in"))]
)
def test_if_the_near_cells_have_many_the_index_is_searched_unless_many_are_asked_for(
    catalogue: Catalogue,
    limit: int,
    unused: tuple[type[object], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "MAX_LOOKED_UP", 50)
    monkeypatch.setattr(*unused, None)
    mask, vector = some(0.2), catalogue.vectors[7]
    searched = mask & catalogue.probed(mask, vector, 4) if limit == 4 else mask
    found = two_tower(catalogue.asked(mask, NONE, NONE, vector), limit)
    assert found.tolist() == catalogue.nearest(searched.nonzero()[0], vector)[:limit]


def test_the_popular_videos_of_a_filter_are_found_behind_those_that_are_blocked(
    catalogue: Catalogue,
) -> None:
    mask = some(0.2)
    ordered = mask.nonzero()[0][np.argsort(-catalogue.release.popularity[mask])]
    also = (~mask).nonzero()[0][[int(np.argmax(catalogue.release.popularity[~mask]))]]
    asked = catalogue.asked(mask, ordered[:40], also, catalogue.vectors[7])
    asked = replace(asked, release=replace(asked.release, popular_rows=ordered[:50]))
    assert popular(asked, 20).tolist() == [*also, *ordered[40:59]]


def test_the_nearest_cells_that_have_videos_of_a_filter_are_searched(catalogue: Catalogue) -> None:
    random, index, cell = np.random.default_rng(0), catalogue.index, catalogue.cell
    vectors, query = catalogue.vectors, catalogue.vectors[7]
    nearness = [vectors[cell == each].mean(0) @ query for each in range(CELLS)]
    far = np.isin(cell, np.argsort(nearness)[:16])
    allowed_rows = catalogue.applied(far)
    cells = index.cells_worth_probing(query, 100, allowed_rows.cell_counts)
    excluded = (far & (random.random(COUNT) < 0.1)).nonzero()[0]
    also = (~far).nonzero()[0][:3]
    free = allowed_rows.bits.copy()
    remove(free, excluded)
    add(free, also)

    found = index.nearest_in(cells, query, 100, free)

    scores = np.where(far, vectors @ query, -np.inf)
    scores[excluded] = -np.inf
    nearest = np.argsort(-scores)[:100]
    assert len(np.intersect1d(found, nearest)) >= 70
    assert not np.isin(found, excluded).any()
    assert (far[found] | np.isin(found, also)).all()
    assert allowed_rows.cell_counts.sum() == far.sum()
    assert set(allowed_rows.rows_in(cells)) == set((far & np.isin(cell, cells)).nonzero()[0])
    few = index.nearest_in(cells, query, COUNT, free)
    assert len(few) == far.sum() - len(excluded) + len(also), "all cells, if some have too few"
