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
class HeldOut:
    """A viewer's last validation watch, and all that came before it."""

    viewer: ViewerFeatures
    """As serving would know it then (counts left out)."""
    watched: Int64Array
    """Rows watched before, oldest first, int64[w]."""
    target: int
    """Row watched next."""


@dataclass(frozen=True)
class RetrievalData:
    """The train part of a data set's watches, and what validation asks.

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
    validation: tuple[HeldOut, ...]
    """Of each viewer who has a validation watch, the last one."""
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
        known = known.sort_values("viewer_id", kind="stable")
        numbers, viewer_ids = pd.factorize(known["viewer_id"])
        rows = pd.Index(videos["video_id"]).get_indexer(pd.Index(known["video_id"]))
        times = known["time"].to_numpy("datetime64[s]").astype(np.int64)
        train = (known["part"] == "train").to_numpy()
        counts = np.bincount(numbers[train], minlength=len(viewer_ids))
        attributes = dict(zip(viewers["viewer_id"], viewers["attributes"], strict=True))
        bags = catalogue_tokens(videos)
        content_vocabulary = shared_vocabulary(bags)
        video_ids = tuple(videos["video_id"])
        keys = unique_video_keys(video_ids)
        profiles = tuple(tuple(attributes.get(viewer, ())) for viewer in viewer_ids)
        stops = np.cumsum(np.bincount(numbers, minlength=len(viewer_ids)))
        validation = []
        for viewer in np.unique(numbers[~train]):
            # The last row of a viewer that isn't train; all before it are history.
            whole = slice(stops[viewer - 1] if viewer else 0, stops[viewer])
            last = whole.start + int(np.flatnonzero(~train[whole])[-1])
            past = slice(whole.start, last)
            validation.append(
                HeldOut(
                    _features(keys, rows[past], times[past], profiles[viewer]),
                    rows[past],
                    int(rows[last]),
                )
            )
        return RetrievalData(
            video_ids=video_ids,
            viewer_ids=tuple(viewer_ids),
            rows=rows[train].astype(np.int64),
            times=times[train],
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            validation=tuple(validation),
            profiles=profiles,
            vocabulary=shared_vocabulary([tuple(bag) for bag in attributes.values()]),
            content_vocabulary=content_vocabulary,
            content=content_ids(bags, content_vocabulary),
            keys=keys,
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
        times = self.times[self.offsets[viewer] : self.offsets[viewer + 1]]
        return _features(self.keys, self.watched(viewer), times, self.profiles[viewer])

    def video_rows(self) -> VideoRows:
        """Finds rows by key, as a release does."""
        return VideoRows(self.keys)

    def fingerprint(self) -> str:
        """SHA-256 over all that training reads, hexadecimal."""
        digest = hashlib.sha256()
        targets = np.array([held_out.target for held_out in self.validation], np.int64)
        histories = [held_out.watched for held_out in self.validation]
        for array in (
            self.keys, self.rows, self.times, self.offsets, targets, *histories,
            self.content, self.attributes(),
        ):  # fmt: skip
            digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def _features(
    keys: Int64Array, rows: Int64Array, times: Int64Array, profile: tuple[str, ...]
) -> ViewerFeatures:
    """What serving knows of a viewer who watched these rows."""
    return ViewerFeatures(
        history_keys=keys[rows[-HISTORY_LIMIT:]],
        history_times=times[-HISTORY_LIMIT:],
        watched_keys=keys[rows],
        attributes=profile,
    )
