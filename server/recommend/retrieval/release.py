"""The candidate service's part of a release."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from cachetools import LRUCache
from prometheus_client import Counter

from vireo.server.arrays import Float32Array, Int32Array, Int64Array
from vireo.server.features.keys import VideoRows
from vireo.server.features.looked_up import Column, Vectors, looked_up
from vireo.server.features.model_inputs import viewer_inputs
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.models.model import Model, replay
from vireo.server.models.signature import VIDEOS, tower_signature
from vireo.server.recommend.candidates import best
from vireo.server.recommend.catalogue import placement
from vireo.server.recommend.catalogue.placement import KnownVideos, Placement
from vireo.server.recommend.filters import table as attribute_table
from vireo.server.recommend.filters.declared import Declared
from vireo.server.recommend.filters.table import AttributeTable, ForwardIndex
from vireo.server.recommend.retrieval.allowed import Embargo, Filters
from vireo.server.recommend.retrieval.index import VideoIndex
from vireo.server.releases import layout
from vireo.server.releases.manifest import Manifest
from vireo.server.releases.tables import (
    VECTOR_TYPES,
    Texts,
    read_ids,
    read_rows,
    read_table,
    read_vocabulary,
)

if TYPE_CHECKING:
    from vireo.server.recommend.catalogue.live_videos import Follower, LiveVideos
    from vireo.v1.catalog_pb2 import Video

LOOKUPS = Counter(
    "vireo_viewer_vector_lookups",
    "Lookups in the cache of viewers' vectors; the viewer tower runs for each miss.",
    ["result"],
)
_HIT, _MISS = LOOKUPS.labels("hit"), LOOKUPS.labels("miss")

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
    layout.CREATORS,
    layout.VOCABULARY,
    layout.TAKEDOWNS,
    *placement.FILES,
    *attribute_table.FILES,
)
"""The files of a release that the candidate service needs."""

MAX_POPULAR = 10_000
"""Length of the popular list: enough for the largest request and the longest history."""
FILTER_CACHE_BYTES = 64 << 20
"""Default maximum bytes of the filters that a release keeps."""


class ViewerVectors:
    """LRU cache of one release's viewer vectors, keyed by the viewer tower's inputs.

    Entries never become stale: a new watch, a changed profile, or a last watch that is twice as
    long ago changes the inputs, and with them the key. Use it from one thread.
    """

    def __init__(self, max_vectors: int) -> None:
        """Start empty; with `max_vectors` 0 nothing is cached."""
        self._vectors: LRUCache[bytes, Float32Array] = LRUCache(max_vectors)
        self._vector_bytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the vectors that are cached; in any thread."""
        return len(self._vectors) * self._vector_bytes

    def of(
        self,
        inputs: Mapping[str, Int64Array],
        made: Callable[[Mapping[str, Int64Array]], Float32Array],
    ) -> Float32Array:
        """Return the vector for a viewer's inputs, float32[d]; call `made` on a miss."""
        if not self._vectors.maxsize:
            return made(inputs)
        digest = xxhash.xxh3_128()
        for array in inputs.values():
            digest.update(np.array(array.shape).tobytes() + array.tobytes())
        key = digest.digest()
        if (kept := self._vectors.get(key)) is not None:
            _HIT.inc()
            return kept
        vector = made(inputs)
        vector.setflags(write=False)
        self._vectors[key], self._vector_bytes = vector, vector.nbytes
        _MISS.inc()
        return vector


class VideosByCreator:
    """Rows by creator. 12 bytes a video, made in 0.1 s for a million. Safe to use from threads."""

    def __init__(self, creators: Int64Array) -> None:
        """Sort the key of each row's creator, int64[n]."""
        order = np.argsort(creators, kind="stable")
        self._creators, self._rows = creators[order], order.astype(np.int32)

    def rows_of(self, creators: Int64Array, limit: int) -> Int64Array:
        """Return the rows of some creators' videos, at most `limit`, those of the first first."""
        asked = np.array([*dict.fromkeys(creators.tolist())], np.int64)
        begins, ends = (self._creators.searchsorted(asked, side) for side in ("left", "right"))
        starts = np.minimum(np.cumsum(ends - begins) - (ends - begins), limit)
        sizes = np.minimum(ends - begins, limit - starts)
        places = np.repeat(begins - starts, sizes) + np.arange(sizes.sum())
        return self._rows.take(places).astype(np.int64)


@dataclass(frozen=True)
class CandidateRelease:
    """One release's viewer tower, item index and tables; n videos of d dimensions."""

    folder: Path
    manifest: Manifest
    tower: Model
    index: VideoIndex
    keys: Int64Array
    """int64[n]."""
    ids: Texts
    vectors: Vectors
    """float32[n, d] or, in a large catalogue, float16[n, d]."""
    co_watch_rows: Int32Array
    """int32[n, k]."""
    co_watch_weights: Vectors
    """float32[n, k] or float16[n, k]."""
    ease_rows: Int32Array
    """int32[n, k]."""
    ease_weights: Float32Array
    """float32[n, k]."""
    fresh_rows: Int64Array
    """Rows of new and hardly watched videos, int64[m]."""
    fresh_vectors: Float32Array
    """Their vectors, float32[m, d]."""
    popular_rows: Int64Array
    """Rows of the MAX_POPULAR most popular videos, best first, ties by key, int64[p]."""
    popularity: Float32Array
    """float32[n]."""
    by_creator: VideosByCreator
    vocabulary: Mapping[str, int]
    rows: VideoRows
    viewers: ViewerVectors
    """Cache of recent viewers' vectors."""
    filters: Filters
    """Filters by the release's attributes."""
    embargo: Embargo
    """Videos that aren't published yet."""
    forward: ForwardIndex
    """Labels of each video."""
    live: LiveVideos | None = None
    """What the log adds; None without one."""

    @staticmethod
    def load(
        folder: Path,
        vector_cache_size: int = 0,
        live: Follower | None = None,
        filter_cache_bytes: int = FILTER_CACHE_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> CandidateRelease:
        """Load the release in `folder`: its manifest and FILES except goldens.

        Digests aren't checked here but by the cache, when it returns the folder.

        Args:
            folder: the release's.
            vector_cache_size: maximum viewers' vectors to cache.
            live: what is followed of the log.
            filter_cache_bytes: maximum bytes of filters to cache.
            clock: Unix time in seconds, by which videos are published.

        Raises:
            ReleaseError: a file is missing or invalid; the message names it.
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
        vectors = read_table(folder, layout.VIDEO_VECTORS, VECTOR_TYPES, (count, size))
        fresh_rows = read_rows(folder, layout.FRESH_ROWS, np.int64, (None,), videos=count)
        rows = VideoRows(keys)
        attributes = AttributeTable.load(folder, count)
        index = VideoIndex.read(folder / layout.VIDEO_INDEX, manifest.index, count, size)
        live_videos = None
        if live is not None:
            place = Placement.load(folder, manifest, count)
            position, declared = manifest.catalog_log_position, attributes.declared
            known = KnownVideos(rows, vectors, position, place, declared=declared)
            live_videos = live.live_videos(known, folder)
        signature = tower_signature(manifest.feature_schema)
        tower = Model(folder / layout.VIEWER_TOWER, signature, {VIDEOS: vectors})
        return CandidateRelease(
            folder=folder,
            manifest=manifest,
            tower=tower,
            index=index,
            keys=keys,
            ids=read_ids(folder, layout.VIDEO_IDS, keys),
            vectors=vectors,
            co_watch_rows=co_watch_rows,
            co_watch_weights=read_table(
                folder, layout.CO_WATCH_WEIGHTS, VECTOR_TYPES, co_watch_rows.shape
            ),
            ease_rows=ease_rows,
            ease_weights=read_table(folder, layout.EASE_WEIGHTS, np.float32, ease_rows.shape),
            fresh_rows=fresh_rows,
            fresh_vectors=looked_up(vectors, fresh_rows),
            popular_rows=best(np.arange(count), popularity, keys, MAX_POPULAR),
            popularity=popularity,
            by_creator=VideosByCreator(read_table(folder, layout.CREATORS, np.int64, (count,))),
            vocabulary=read_vocabulary(folder, layout.VOCABULARY),
            rows=rows,
            viewers=ViewerVectors(vector_cache_size),
            filters=Filters(attributes, index, filter_cache_bytes, live_videos),
            embargo=Embargo(attributes, live_videos, clock),
            forward=ForwardIndex(attributes),
            live=live_videos,
        )

    @property
    def context(self) -> tuple[str, ...]:
        """Names of the context features that the models read."""
        return tuple(self.manifest.feature_schema.context_features)

    @property
    def declared(self) -> Declared:
        """The attributes by which its videos can be filtered."""
        return self.filters.declared

    @property
    def row_count(self) -> int:
        """Number of rows, those of the live videos included."""
        live = self.live
        return len(self.keys) if live is None else live.first + live.count

    @property
    def every_vector(self) -> Column:
        """The vectors with those of the live videos, until their next change."""
        live = self.live
        return self.vectors if live is None else live.extended(self.vectors, live.vectors)

    def find(self, keys: Int64Array) -> Int64Array:
        """Return the row of each video, of live ones too, int64[m]; -1 for unknown ones."""
        rows = self.rows.find(keys)
        return rows if self.live is None else self.live.find(keys, rows)

    def keys_of(self, rows: Int64Array) -> Int64Array:
        """Return the keys of some rows, of live videos too, int64[k]."""
        live = self.live
        keys = self.keys if live is None else live.extended(self.keys, live.keys)
        return keys.take(rows, axis=0)

    def changed_video(self, row: int) -> Video | None:
        """Return the video of a row as the log has it; None if it is unchanged."""
        if self.live is not None and row >= self.live.first:
            return self.live.video(row)
        return None if self.live is None else self.live.changed_video(self.ids[row])

    def video_id(self, row: int) -> str:
        """Return the id of a row, of a live video too."""
        if self.live is not None and row >= self.live.first:
            return self.live.video(row).video_id
        return self.ids[row]

    def replay_goldens(self) -> None:
        """Raise ReleaseError unless the towers reproduce their outputs of training."""
        replay(self.tower, self.folder / layout.GOLDEN_VIEWER_TOWER)
        if self.live is not None:
            self.live.known.placement.replay_goldens()

    def viewer_vector(
        self, viewer: ViewerFeatures, found: Int64Array | None = None
    ) -> Float32Array:
        """Return the viewer's embedding, float32[d]; raise ModelOutputError if it isn't finite.

        `found` is the row of each video of the history, -1 for unknown ones, if they are known.
        """
        if found is None:
            found = self.rows.find(viewer.history_keys)
        limit = self.manifest.feature_schema.history_limit
        inputs = viewer_inputs(viewer, found, self.vocabulary, limit, self.context)
        return self.viewers.of(inputs, lambda asked: self.tower.run(asked)[0])
