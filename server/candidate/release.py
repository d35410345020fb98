"""What the candidate service holds of a release."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from server.features.tower_inputs import VideoRows, tower_inputs
from server.features.viewer import ViewerFeatures
from server.inference.golden import replay
from server.inference.model import Model
from server.inference.signature import tower_signature
from server.releases import layout
from server.releases.manifest import Manifest, ReleaseError
from server.releases.tables import check_rows, read_ids, read_rows, read_table, read_vocabulary

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

FILES = (
    layout.VIEWER_TOWER,
    layout.GOLDEN_VIEWER_TOWER,
    layout.VIDEO_KEYS,
    layout.VIDEO_IDS,
    layout.VIDEO_VECTORS,
    layout.VIDEO_INDEX,
    layout.CO_WATCH_ROWS,
    layout.CO_WATCH_WEIGHTS,
    layout.EASE_ROWS,
    layout.EASE_WEIGHTS,
    layout.FRESH_ROWS,
    layout.POPULARITY,
    layout.VOCABULARY,
)
"""The files of a release that the candidate service needs."""


@dataclass(frozen=True)
class CandidateRelease:
    """One release's viewer tower, item index and tables; n videos of d dimensions."""

    folder: Path
    manifest: Manifest
    tower: Model
    index: Any
    """faiss index over the vectors; its ids are rows."""
    keys: Int64Array
    """int64[n]."""
    ids: list[str]
    vectors: Float32Array
    """float32[n, d]."""
    co_watch_rows: npt.NDArray[np.int32]
    """int32[n, k]."""
    co_watch_weights: Float32Array
    """float32[n, k]."""
    ease_rows: npt.NDArray[np.int32]
    """int32[n, k]; k is 0 where the catalogue is too large for EASE."""
    ease_weights: Float32Array
    """float32[n, k]."""
    fresh_rows: Int64Array
    """Rows of new and hardly watched videos, int64[m]."""
    fresh_vectors: Float32Array
    """The vectors of these, float32[m, d]."""
    popular_rows: Int64Array
    """Rows by popularity, most popular first, ties by key, int64[n]."""
    vocabulary: Mapping[str, int]
    rows: VideoRows

    @staticmethod
    def load(folder: Path) -> CandidateRelease:
        """Loads the release in `folder`: its manifest and FILES, goldens excepted.

        Digests aren't checked here: the cache does that when it hands out the folder.

        Raises:
            ReleaseError: a file is missing or unfit; the message names it.
        """
        manifest = Manifest.read(folder)
        size = manifest.feature_schema.vector_size
        keys = read_table(folder, layout.VIDEO_KEYS, np.int64, (None,))
        count = len(keys)
        popularity = read_table(folder, layout.POPULARITY, np.float32, (count,))
        co_watch_rows = read_rows(
            folder, layout.CO_WATCH_ROWS, np.int32, (count, None), videos=count, lowest=-1
        )
        ease_rows = read_rows(folder, layout.EASE_ROWS, np.int32, (count, None), videos=count)
        fresh_rows = read_rows(folder, layout.FRESH_ROWS, np.int64, (None,), videos=count)
        vectors = read_table(folder, layout.VIDEO_VECTORS, np.float32, (count, size))
        return CandidateRelease(
            folder=folder,
            manifest=manifest,
            tower=Model(folder / layout.VIEWER_TOWER, tower_signature(size)),
            index=_read_index(folder / layout.VIDEO_INDEX, count, size),
            keys=keys,
            ids=read_ids(folder, layout.VIDEO_IDS, keys),
            vectors=vectors,
            co_watch_rows=co_watch_rows,
            co_watch_weights=read_table(
                folder, layout.CO_WATCH_WEIGHTS, np.float32, co_watch_rows.shape
            ),
            ease_rows=ease_rows,
            ease_weights=read_table(folder, layout.EASE_WEIGHTS, np.float32, ease_rows.shape),
            fresh_rows=fresh_rows,
            fresh_vectors=vectors[fresh_rows],
            popular_rows=np.lexsort((keys, -popularity)),
            vocabulary=read_vocabulary(folder, layout.VOCABULARY),
            rows=VideoRows(keys),
        )

    def replay_goldens(self) -> None:
        """Raises ReleaseError unless the viewer tower answers as it did in training."""
        replay(self.tower, self.folder / layout.GOLDEN_VIEWER_TOWER)

    def viewer_vector(self, viewer: ViewerFeatures) -> Float32Array:
        """The viewer's embedding, float32[d]; raises ModelOutputError where it isn't finite."""
        limit = self.manifest.feature_schema.history_limit
        vectors: Float32Array = self.tower.run(
            tower_inputs([viewer], self.rows, self.vocabulary, limit)
        )
        vector: Float32Array = vectors[0]
        return vector

    def nearest(self, vector: Float32Array, limit: int) -> Int64Array:
        """Rows of the `limit` videos nearest to `vector` by inner product, best first.

        Fewer only where the catalogue has fewer: an approximate index that finds too few
        is answered by exact search.
        """
        limit = min(limit, len(self.keys))
        if limit == 0:
            return np.empty(0, np.int64)
        rows: Int64Array = self.index.search(vector[None], limit)[1][0]
        if (rows < 0).any():
            exact = self.vectors @ vector
            rows = np.lexsort((self.keys, -exact))[:limit]
        return rows


def _read_index(file: Path, count: int, size: int) -> Any:
    try:
        index = faiss.read_index(str(file))
    except RuntimeError as error:
        raise ReleaseError(f"{file}: faiss can't read the index: {error}") from error
    if index.d != size:
        raise ReleaseError(
            f"{file}: has vectors of {index.d} dimensions, "
            f"feature_schema.vector_size of the release is {size}"
        )
    if index.ntotal != count:
        raise ReleaseError(f"{file}: has {index.ntotal} vectors, the release has {count} videos")
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ReleaseError(f"{file}: the index must search by inner product")
    check_rows(file, _ids_of(index), count)
    return index


def _ids_of(index: Any) -> Int64Array:
    """The ids that an index stores, int64[m]; none where it numbers its vectors itself."""
    if isinstance(index, faiss.IndexIDMap):
        mapped: Int64Array = faiss.vector_to_array(index.id_map)
        return mapped
    lists = index.invlists if isinstance(index, faiss.IndexIVF) else None
    if lists is None:
        return np.empty(0, np.int64)
    stored = [
        faiss.rev_swig_ptr(lists.get_ids(number), lists.list_size(number))
        for number in range(index.nlist)
        if lists.list_size(number)
    ]
    return np.concatenate(stored) if stored else np.empty(0, np.int64)
