"""Training data of the retrieval model: the catalogue, and each viewer's watches in order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vireo.server.arrays import BoolArray, Int32Array, Int64Array
from vireo.server.features.activity import HISTORY_LIMIT, WATCHED_LIMIT
from vireo.server.features.content import content_ids
from vireo.server.features.context import NAMES, UNKNOWN, ContextIds
from vireo.server.features.keys import unique_video_keys
from vireo.server.features.tower_inputs import ATTRIBUTE_LIMIT, attribute_ids, tower_inputs
from vireo.server.features.video_rows import VideoRows
from vireo.server.features.viewer import ViewerFeatures
from vireo.training.data.context import context_names
from vireo.training.features.publication import published_times
from vireo.training.retrieval.content import catalogue_tokens, shared_vocabulary
from vireo.training.retrieval.sequences import (
    SequenceFile,
    SequenceWriter,
    Watches,
    frame_batches,
    watch_batches,
)

VALIDATION_LIMIT = 10_000
"""Maximum viewers that are validated; of more, a fixed sample is drawn."""


@dataclass(frozen=True)
class HeldOut:
    """A viewer's last watch, and all that came before it."""

    viewer: ViewerFeatures
    """The viewer's features as serving would have them then (without counts)."""
    watched: Int64Array
    """Rows watched before, oldest first, int64[w]."""
    target: int
    """Row watched next."""


@dataclass(frozen=True)
class RetrievalData:
    """The catalogue, the train part of the watches, and the validation queries.

    Rows number the videos in the order of `videos.parquet`. The catalogue (some 300 bytes a
    video) and an offset a viewer are in memory; the watches are in `sequences`, from which
    training reads a part at a time. `rows`, `times` and `watched` load all watches on first use,
    16 bytes each.
    """

    video_ids: tuple[str, ...]
    keys: Int64Array
    """Each video's key, int64[n]."""
    content_vocabulary: dict[str, int]
    """Content token to id, from 1."""
    content: Int32Array
    """Content token ids of each video, 0-padded, int32[n, CONTENT_LIMIT]."""
    vocabulary: dict[str, int]
    """Attribute to id, from 1."""
    published_at: Int64Array
    """When each video was published, as the catalogue states it, Unix seconds, 0 if unknown,
    int64[n]."""
    sequences: SequenceFile

    @staticmethod
    def build(
        watches: pd.DataFrame, videos: pd.DataFrame, viewers: pd.DataFrame, *, context: bool = True
    ) -> RetrievalData:
        """Build the data from `watches.parquet`, `videos.parquet` and `viewers.parquet`.

        Keeps the watches in memory, some 5 bytes each, with their context if they have any, unless
        `context` is off. Those of the test part are ignored.

        Raises:
            KeyCollisionError: two video ids share a key.
        """
        known = watches.sort_values("viewer_id", kind="stable")
        sink = pa.BufferOutputStream()
        names = context_names(watches.columns) if context else ()
        _writer(videos, viewers, names).write(frame_batches(known, names), sink)
        return RetrievalData.open(SequenceFile(sink.getvalue()), videos, viewers)

    @staticmethod
    def stream(
        watches: Path,
        videos: pd.DataFrame,
        viewers: pd.DataFrame,
        target: Path,
        *,
        context: bool = True,
    ) -> RetrievalData:
        """Build the data in a file at `target`, reading the file `watches` a part at a time.

        With the watches' context if they have any, unless `context` is off.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        names = context_names(pq.read_schema(watches).names) if context else ()
        _writer(videos, viewers, names).write(watch_batches(watches, names), partial)
        partial.replace(target)
        return RetrievalData.open(SequenceFile(target), videos, viewers)

    @staticmethod
    def open(sequences: SequenceFile, videos: pd.DataFrame, viewers: pd.DataFrame) -> RetrievalData:
        """Open the file that `stream` wrote from the same tables."""
        video_ids = tuple(videos["video_id"])
        bags = catalogue_tokens(videos)
        content_vocabulary = shared_vocabulary(bags)
        return RetrievalData(
            video_ids=video_ids,
            keys=unique_video_keys(video_ids),
            content_vocabulary=content_vocabulary,
            content=content_ids(bags, content_vocabulary),
            vocabulary=_vocabulary(viewers),
            published_at=published_times(videos).astype(np.int64),
            sequences=sequences,
        )

    @cached_property
    def context(self) -> tuple[str, ...]:
        """Names of the features of the watches' context."""
        return self.sequences.context()

    def inputs(self, viewers: Sequence[ViewerFeatures], limit: int) -> dict[str, Int64Array]:
        """Return the viewer tower's inputs, for histories of at most `limit` videos."""
        return tower_inputs(viewers, self.video_rows(), self.vocabulary, limit, self.context)

    @property
    def video_count(self) -> int:
        """Number of videos in the catalogue."""
        return len(self.video_ids)

    @property
    def viewer_count(self) -> int:
        """Number of viewers with a watch."""
        return len(self.offsets) - 1

    @property
    def watch_count(self) -> int:
        """Number of watches in the train part."""
        return int(self.offsets[-1])

    @cached_property
    def viewer_ids(self) -> tuple[str, ...]:
        """The id of each viewer; the first use loads all of them into memory."""
        return self.sequences.viewer_ids()

    @cached_property
    def offsets(self) -> Int64Array:
        """The watches of viewer i are `rows[offsets[i]:offsets[i + 1]]`, int64[viewers + 1]."""
        counts = [np.diff(group.train.offsets) for group in self.sequences.groups()]
        return np.concatenate([[0], np.cumsum(np.concatenate([np.empty(0, np.int64), *counts]))])

    @property
    def rows(self) -> Int64Array:
        """Row of each watched video, int64[events], by viewer, then oldest first."""
        return self._train.rows

    @property
    def times(self) -> Int64Array:
        """Time of each watch, Unix seconds, int64[events]."""
        return self._train.times

    @cached_property
    def _train(self) -> Watches:
        return Watches.joined([group.train for group in self.sequences.groups()])

    @cached_property
    def _counts(self) -> Int64Array:
        counts = np.zeros(self.video_count, np.int64)
        for group in self.sequences.groups():
            counts += np.bincount(group.train.rows, minlength=self.video_count)
        return counts

    @cached_property
    def published(self) -> Int64Array | None:
        """When each video was published, or first watched if that was before, int64[n].

        Unix seconds, 0 if unknown; None if every video came before all watches.
        """
        published, start = self.published_at.copy(), np.iinfo(np.int64).max
        for group in self.sequences.groups():
            np.minimum.at(published, group.train.rows, group.train.times)
            start = min(start, int(group.train.times.min(initial=start)))
        return published if (published > start).any() else None

    def watch_counts(self) -> Int64Array:
        """Return how often each video is watched in the train part, int64[n]."""
        return self._counts

    def attributes(self) -> Int64Array:
        """Return attribute ids of each viewer, int64[viewers, ATTRIBUTE_LIMIT]."""
        none = np.zeros((0, ATTRIBUTE_LIMIT), np.int64)
        return np.concatenate([none, *(group.attributes for group in self.sequences.groups())])

    def watched(self, viewer: int) -> Int64Array:
        """Return the rows that a viewer watched in the train part, oldest first, int64[w]."""
        return self.rows[self.offsets[viewer] : self.offsets[viewer + 1]]

    def viewer_features(self, viewer: int) -> ViewerFeatures:
        """Return a viewer's features as served after the train part (without counts).

        The context is that of the last watch.
        """
        place = viewer
        for group in self.sequences.groups():
            if place < len(group.attributes):
                known = group.train.of(place)
                rows, times = group.train.rows[known], group.train.times[known]
                found = self._features(rows, times, group.attributes[place])
                last = group.train.context[known][-1:]
                return replace(found, context=self._ids(last[0]) if len(last) else UNKNOWN)
            place -= len(group.attributes)
        raise IndexError(viewer)

    @cached_property
    def validation(self) -> tuple[HeldOut, ...]:
        """The last validation watch of each viewer who has one.

        Limited to a sample of VALIDATION_LIMIT viewers, all of whose watches are in memory.
        """
        return self._last_watches(
            [np.diff(each.held_out.offsets) > 0 for each in self.sequences.groups()]
        )

    @cached_property
    def last_watches(self) -> tuple[HeldOut, ...]:
        """`validation`, or the last train watches if no watch is for validation.

        The latter only locate viewers in the vector space: no metric may be measured on them,
        since training has seen them.
        """
        if self.validation:
            return self.validation
        return self._last_watches(
            [np.diff(each.train.offsets) > 1 for each in self.sequences.groups()]
        )

    def _last_watches(self, asked: Sequence[BoolArray]) -> tuple[HeldOut, ...]:
        """Return the last watch of each selected viewer, or of a sample of them.

        `asked` is the selection, bool[viewers] for each group.
        """
        able = np.flatnonzero(np.concatenate([np.empty(0, np.bool_), *asked]))
        if len(able) > VALIDATION_LIMIT:
            able = np.random.default_rng(0).choice(able, VALIDATION_LIMIT, replace=False)
        chosen = np.zeros(sum(map(len, asked)), bool)
        chosen[able] = True
        held_out: list[HeldOut] = []
        start = 0
        for group in self.sequences.groups():
            places = np.flatnonzero(chosen[start : start + len(group.attributes)])
            start += len(group.attributes)
            for place in places.tolist():
                parts = [(part, part.of(place)) for part in (group.train, group.held_out)]
                rows = np.concatenate([part.rows[where] for part, where in parts])
                times = np.concatenate([part.times[where] for part, where in parts])
                viewer = self._features(rows[:-1], times[:-1], group.attributes[place])
                ids = [part.context[where] for part, where in parts]
                context = self._ids(np.concatenate(ids)[-1])
                viewer = replace(viewer, asked_at=int(times[-1]), context=context)
                held_out.append(HeldOut(viewer, rows[:-1], int(rows[-1])))
        return tuple(held_out)

    @cached_property
    def _attribute_texts(self) -> dict[int, str]:
        return {number: text for text, number in self.vocabulary.items()}

    def _ids(self, context: Int64Array) -> ContextIds:
        """Return the ids of a watch, int64[c], as those of a request."""
        given = dict(zip(self.context, context.tolist(), strict=True))
        return tuple(given.get(name, 0) for name in NAMES)

    def _features(self, rows: Int64Array, times: Int64Array, ids: Int64Array) -> ViewerFeatures:
        """Return the features of a viewer who watched these rows, with known attributes only."""
        return ViewerFeatures(
            history_keys=self.keys[rows[-HISTORY_LIMIT:]],
            history_times=times[-HISTORY_LIMIT:],
            watched_keys=self.keys[rows[-WATCHED_LIMIT:]],
            attributes=tuple(self._attribute_texts[number] for number in ids[ids > 0].tolist()),
        )

    def video_rows(self) -> VideoRows:
        """Return the index of rows by key, as a release has it."""
        return self._video_rows

    @cached_property
    def _video_rows(self) -> VideoRows:
        return VideoRows(self.keys)

    def fingerprint(self) -> str:
        """Return the SHA-256 of all that training reads, in hexadecimal."""
        digest = hashlib.sha256()
        for array in (self.keys, self.content, self.published_at):
            digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        for group in self.sequences.groups():
            for part in (group.train, group.held_out):
                read = (part.context,) if self.context else ()
                for array in (part.rows, part.times, part.offsets, *read):
                    digest.update(repr(array.shape).encode() + array.tobytes())
            digest.update(group.attributes.tobytes())
        digest.update("".join(self.context).encode())
        return digest.hexdigest()


def _vocabulary(viewers: pd.DataFrame) -> dict[str, int]:
    return shared_vocabulary([tuple(bag) for bag in viewers["attributes"]])


def _writer(videos: pd.DataFrame, viewers: pd.DataFrame, context: Sequence[str]) -> SequenceWriter:
    vocabulary = _vocabulary(viewers)
    ids = [attribute_ids(tuple(bag), vocabulary) for bag in viewers["attributes"]]
    stacked = np.stack(ids) if ids else np.zeros((0, ATTRIBUTE_LIMIT), np.int64)
    return SequenceWriter(tuple(videos["video_id"]), viewers, stacked, context)
