"""What the retrieval model learns from: the catalogue, and each viewer's watches in order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from server.features.activity import HISTORY_LIMIT, WATCHED_LIMIT
from server.features.keys import unique_video_keys
from server.features.tower_inputs import ATTRIBUTE_LIMIT, attribute_ids
from server.features.video_rows import VideoRows
from server.features.viewer import ViewerFeatures
from training.retrieval.content import catalogue_tokens, content_ids, shared_vocabulary
from training.retrieval.sequences import (
    SequenceFile,
    SequenceWriter,
    Watches,
    frame_batches,
    watch_batches,
)

Int64Array = npt.NDArray[np.int64]

VALIDATION_LIMIT = 10_000
"""Validation asks of so many viewers; of more, a sample that is always the same."""


@dataclass(frozen=True)
class HeldOut:
    """A viewer's last watch, and all that came before it."""

    viewer: ViewerFeatures
    """As serving would know it then (counts left out)."""
    watched: Int64Array
    """Rows watched before, oldest first, int64[w]."""
    target: int
    """Row watched next."""


@dataclass(frozen=True)
class RetrievalData:
    """The catalogue, the train part of the watches, and what validation asks.

    Rows number the videos in the order of `videos.parquet`. In memory are the catalogue (some
    300 bytes a video) and an offset a viewer; the watches lie in `sequences`. Training reads
    them from there a part at a time. `rows`, `times` and `watched` are for whoever needs all at
    once: the first use loads them, 16 bytes a watch.
    """

    video_ids: tuple[str, ...]
    keys: Int64Array
    """Each video's key, int64[n]."""
    content_vocabulary: dict[str, int]
    """Content token to id, from 1."""
    content: npt.NDArray[np.int32]
    """Content token ids of each video, 0-padded, int32[n, CONTENT_LIMIT]."""
    vocabulary: dict[str, int]
    """Attribute to id, from 1."""
    sequences: SequenceFile

    @staticmethod
    def build(watches: pd.DataFrame, videos: pd.DataFrame, viewers: pd.DataFrame) -> RetrievalData:
        """Arranges the tables of `watches.parquet`, `videos.parquet` and `viewers.parquet`.

        Keeps the watches in memory, some 5 bytes each. Those of the test part are not
        looked at.

        Raises:
            KeyCollisionError: two video ids share a key.
        """
        known = watches.sort_values("viewer_id", kind="stable")
        sink = pa.BufferOutputStream()
        _writer(videos, viewers).write(frame_batches(known), sink)
        return RetrievalData.open(SequenceFile(sink.getvalue()), videos, viewers)

    @staticmethod
    def stream(
        watches: Path, videos: pd.DataFrame, viewers: pd.DataFrame, target: Path
    ) -> RetrievalData:
        """As `build`, from the file of watches into another at `target`, a part at a time."""
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        _writer(videos, viewers).write(watch_batches(watches), partial)
        partial.replace(target)
        return RetrievalData.open(SequenceFile(target), videos, viewers)

    @staticmethod
    def open(sequences: SequenceFile, videos: pd.DataFrame, viewers: pd.DataFrame) -> RetrievalData:
        """Takes up what `stream` has written of the same tables."""
        video_ids = tuple(videos["video_id"])
        bags = catalogue_tokens(videos)
        content_vocabulary = shared_vocabulary(bags)
        return RetrievalData(
            video_ids=video_ids,
            keys=unique_video_keys(video_ids),
            content_vocabulary=content_vocabulary,
            content=content_ids(bags, content_vocabulary),
            vocabulary=_vocabulary(viewers),
            sequences=sequences,
        )

    @property
    def video_count(self) -> int:
        """How many videos the catalogue has."""
        return len(self.video_ids)

    @property
    def viewer_count(self) -> int:
        """How many viewers have a watch."""
        return len(self.offsets) - 1

    @property
    def watch_count(self) -> int:
        """How many watches the train part has."""
        return int(self.offsets[-1])

    @cached_property
    def viewer_ids(self) -> tuple[str, ...]:
        """The id of each viewer; all in memory from the first use on."""
        return self.sequences.viewer_ids()

    @cached_property
    def offsets(self) -> Int64Array:
        """The watches of viewer i are `rows[offsets[i]:offsets[i + 1]]`, int64[viewers + 1]."""
        counts = [np.diff(group.train.offsets) for group in self.sequences.groups()]
        return np.concatenate([[0], np.cumsum(np.concatenate([np.empty(0, np.int64), *counts]))])

    @property
    def rows(self) -> Int64Array:
        """Video watched, int64[events], of each viewer the oldest first."""
        return self._train.rows

    @property
    def times(self) -> Int64Array:
        """When, Unix seconds, int64[events]."""
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

    def watch_counts(self) -> Int64Array:
        """How often each video is watched in the train part, int64[n]."""
        return self._counts

    def attributes(self) -> Int64Array:
        """Attribute ids of each viewer, int64[viewers, ATTRIBUTE_LIMIT]."""
        none = np.zeros((0, ATTRIBUTE_LIMIT), np.int64)
        return np.concatenate([none, *(group.attributes for group in self.sequences.groups())])

    def watched(self, viewer: int) -> Int64Array:
        """Rows that a viewer watched in the train part, oldest first, int64[w]."""
        return self.rows[self.offsets[viewer] : self.offsets[viewer + 1]]

    def viewer_features(self, viewer: int) -> ViewerFeatures:
        """What serving would know of a viewer after the train part (counts left out)."""
        place = viewer
        for group in self.sequences.groups():
            if place < len(group.attributes):
                known = group.train.of(place)
                rows, times = group.train.rows[known], group.train.times[known]
                return self._features(rows, times, group.attributes[place])
            place -= len(group.attributes)
        raise IndexError(viewer)

    @cached_property
    def validation(self) -> tuple[HeldOut, ...]:
        """Of the viewers who have a validation watch, the last one.

        Of more than VALIDATION_LIMIT viewers it is a sample; all their watches are in memory.
        """
        return self._last_watches(
            [np.diff(each.held_out.offsets) > 0 for each in self.sequences.groups()]
        )

    @cached_property
    def last_watches(self) -> tuple[HeldOut, ...]:
        """Return `validation`, or the same of the train part if no watch is for validation.

        Nothing may be measured on the latter, which training has seen; it says where viewers are.
        """
        if self.validation:
            return self.validation
        return self._last_watches(
            [np.diff(each.train.offsets) > 1 for each in self.sequences.groups()]
        )

    def _last_watches(self, asked: Sequence[npt.NDArray[np.bool_]]) -> tuple[HeldOut, ...]:
        """Return the last watch of each viewer asked, bool[viewers] by group, or of a sample."""
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
                viewer = replace(viewer, asked_at=int(times[-1]))
                held_out.append(HeldOut(viewer, rows[:-1], int(rows[-1])))
        return tuple(held_out)

    @cached_property
    def _attribute_texts(self) -> dict[int, str]:
        return {number: text for text, number in self.vocabulary.items()}

    def _features(self, rows: Int64Array, times: Int64Array, ids: Int64Array) -> ViewerFeatures:
        """What serving knows of a viewer who watched these rows, known attributes alone."""
        return ViewerFeatures(
            history_keys=self.keys[rows[-HISTORY_LIMIT:]],
            history_times=times[-HISTORY_LIMIT:],
            watched_keys=self.keys[rows[-WATCHED_LIMIT:]],
            attributes=tuple(self._attribute_texts[number] for number in ids[ids > 0].tolist()),
        )

    def video_rows(self) -> VideoRows:
        """Finds rows by key, as a release does."""
        return self._video_rows

    @cached_property
    def _video_rows(self) -> VideoRows:
        return VideoRows(self.keys)

    def fingerprint(self) -> str:
        """SHA-256 over all that training reads, hexadecimal."""
        digest = hashlib.sha256()
        for array in (self.keys, self.content):
            digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        for group in self.sequences.groups():
            for part in (group.train, group.held_out):
                for array in (part.rows, part.times, part.offsets):
                    digest.update(repr(array.shape).encode() + array.tobytes())
            digest.update(group.attributes.tobytes())
        return digest.hexdigest()


def _vocabulary(viewers: pd.DataFrame) -> dict[str, int]:
    return shared_vocabulary([tuple(bag) for bag in viewers["attributes"]])


def _writer(videos: pd.DataFrame, viewers: pd.DataFrame) -> SequenceWriter:
    vocabulary = _vocabulary(viewers)
    ids = [attribute_ids(tuple(bag), vocabulary) for bag in viewers["attributes"]]
    stacked = np.stack(ids) if ids else np.zeros((0, ATTRIBUTE_LIMIT), np.int64)
    return SequenceWriter(tuple(videos["video_id"]), viewers, stacked)
