"""What the retrieval model learns from: each viewer's watches in order, as arrays."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from server.features.activity import HISTORY_LIMIT
from server.features.keys import unique_video_keys
from server.features.tower_inputs import VideoRows, attribute_ids
from server.features.viewer import ViewerFeatures
from training.retrieval.content import catalogue_tokens, content_ids, shared_vocabulary

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RetrievalData:
    """The train part of a data set's watches, and the validation watch of each viewer.

    Rows number the videos in the order of `videos.parquet`. The watches of viewer i are
    `rows[offsets[i]:offsets[i + 1]]`, oldest first.
    """

    video_ids: tuple[str, ...]
    viewer_ids: tuple[str, ...]
    rows: Int64Array
    """Video watched, int64[events]."""
    times: Int64Array
    """When, Unix seconds, int64[events]."""
    offsets: Int64Array
    """int64[viewers + 1]."""
    validation_rows: Int64Array
    """The video that the viewer watched next, int64[viewers]; -1 where none is held out."""
    profiles: tuple[tuple[str, ...], ...]
    """Each viewer's attributes."""
    vocabulary: dict[str, int]
    """Attribute to id, from 1."""
    content_vocabulary: dict[str, int]
    """Content token to id, from 1."""
    content: Int64Array
    """Content token ids of each video, 0-padded, int64[n, CONTENT_LIMIT]."""
    keys: Int64Array
    """Each video's key, int64[n]."""

    @staticmethod
    def build(watches: pd.DataFrame, videos: pd.DataFrame, viewers: pd.DataFrame) -> RetrievalData:
        """Arranges the tables of `watches.parquet`, `videos.parquet` and `viewers.parquet`.

        Watches of the test part are not looked at.

        Raises:
            KeyCollisionError: two video ids share a key.
        """
        known = watches[watches["part"].isin(["train", "validation"])]
        numbers, viewer_ids = pd.factorize(known["viewer_id"])
        rows = pd.Index(videos["video_id"]).get_indexer(pd.Index(known["video_id"]))
        times = known["time"].to_numpy("datetime64[s]").astype(np.int64)
        train = (known["part"] == "train").to_numpy()
        order = np.argsort(numbers[train], kind="stable")
        counts = np.bincount(numbers[train], minlength=len(viewer_ids))
        validation_rows = np.full(len(viewer_ids), -1, np.int64)
        validation_rows[numbers[~train]] = rows[~train]

        attributes = dict(zip(viewers["viewer_id"], viewers["attributes"], strict=True))
        bags = catalogue_tokens(videos)
        content_vocabulary = shared_vocabulary(bags)
        video_ids = tuple(videos["video_id"])
        return RetrievalData(
            video_ids=video_ids,
            viewer_ids=tuple(viewer_ids),
            rows=rows[train][order].astype(np.int64),
            times=times[train][order],
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            validation_rows=validation_rows,
            profiles=tuple(tuple(attributes.get(viewer, ())) for viewer in viewer_ids),
            vocabulary=shared_vocabulary([tuple(bag) for bag in attributes.values()]),
            content_vocabulary=content_vocabulary,
            content=content_ids(bags, content_vocabulary),
            keys=unique_video_keys(video_ids),
        )

    @property
    def video_count(self) -> int:
        """How many videos the catalogue has."""
        return len(self.video_ids)

    @property
    def viewer_count(self) -> int:
        """How many viewers have a watch."""
        return len(self.viewer_ids)

    def watch_counts(self) -> Int64Array:
        """How often each video is watched in the train part, int64[n]."""
        return np.bincount(self.rows, minlength=self.video_count)

    def attributes(self) -> Int64Array:
        """Attribute ids of each viewer, int64[viewers, ATTRIBUTE_LIMIT]."""
        ids = [attribute_ids(profile, self.vocabulary) for profile in self.profiles]
        return np.stack(ids) if ids else np.zeros((0, 1), np.int64)

    def watched(self, viewer: int) -> Int64Array:
        """Rows that a viewer watched in the train part, oldest first, int64[w]."""
        return self.rows[self.offsets[viewer] : self.offsets[viewer + 1]]

    def viewer_features(self, viewer: int) -> ViewerFeatures:
        """What serving would know of a viewer after the train part (counts left out)."""
        rows = self.watched(viewer)
        times = self.times[self.offsets[viewer] : self.offsets[viewer + 1]]
        return ViewerFeatures(
            history_keys=self.keys[rows[-HISTORY_LIMIT:]],
            history_times=times[-HISTORY_LIMIT:],
            watched_keys=self.keys[rows],
            attributes=self.profiles[viewer],
        )

    def video_rows(self) -> VideoRows:
        """Finds rows by key, as a release does."""
        return VideoRows(self.keys)

    def fingerprint(self) -> str:
        """SHA-256 over all that training reads, hexadecimal."""
        digest = hashlib.sha256()
        for array in (
            self.keys, self.rows, self.times, self.offsets, self.validation_rows,
            self.content, self.attributes(),
        ):  # fmt: skip
            digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()
