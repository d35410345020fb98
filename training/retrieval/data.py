"""Training data of the retrieval model: the catalogue, and each viewer's watches in order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from vireo.server.arrays import BoolArray, Int32Array, Int64Array
from vireo.server.features.activity import HISTORY_LIMIT, WATCHED_LIMIT
from vireo.server.features.content import content_ids
from vireo.server.features.context import NAMES, ContextIds
from vireo.server.features.keys import VideoRows, unique_video_keys
from vireo.server.features.model_inputs import attribute_ids, tower_inputs
from vireo.server.features.viewer import ViewerFeatures
from vireo.training.data.context import Int16Array, context_names, watch_column
from vireo.training.features.publication import published_times
from vireo.training.retrieval.content import catalogue_tokens, shared_vocabulary

VALIDATION_LIMIT = 10_000
"""Maximum viewers that are validated; of more, a fixed sample is drawn."""
GROUP_WATCHES = 131_072
"""Watches of a group of viewers, which are shuffled together; more if a viewer has more."""


@dataclass(frozen=True)
class Watches:
    """The watches of some viewers: those of viewer i are `offsets[i]` to `offsets[i + 1]`."""

    rows: Int64Array
    """Rows of the watched videos, int64[w]."""
    times: Int64Array
    """Times of the watches, Unix seconds, int64[w]."""
    offsets: Int64Array
    """int64[viewers + 1]."""
    context: Int16Array
    """Ids of the context of each, int16[w, c]."""

    def of(self, viewer: int) -> slice:
        """Return the slice of the viewer's watches."""
        return slice(int(self.offsets[viewer]), int(self.offsets[viewer + 1]))

    def take(self, viewers: Int64Array) -> Watches:
        """Return the watches of some viewers, int64[m], in this order."""
        lengths = np.diff(self.offsets)[viewers]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        places = np.arange(offsets[-1])
        places += np.repeat(self.offsets[viewers] - offsets[:-1], lengths)
        return Watches(self.rows[places], self.times[places], offsets, self.context[places])


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
    """The catalogue, and the train and validation parts of the watches.

    Rows number the videos in the order of `videos.parquet`. A video takes some 300 bytes, a viewer
    150, a watch 16 and 2 more for each feature of its context.
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
    viewer_ids: tuple[str, ...]
    """The viewers with a watch."""
    attributes: Int64Array
    """Attribute ids of each viewer, 0-padded, int64[viewers, ATTRIBUTE_LIMIT]."""
    train: Watches
    held_out: Watches
    """Watches of the validation part."""
    groups: tuple[range, ...]
    """Viewers whose watches are shuffled together: all of them, in order."""
    context: tuple[str, ...]
    """Names of the features of the watches' context."""

    @staticmethod
    def build(
        watches: pd.DataFrame, videos: pd.DataFrame, viewers: pd.DataFrame, *, context: bool = True
    ) -> RetrievalData:
        """Build the data from a data set's tables, and its watches by viewer, then time.

        With the watches' context if they have any, unless `context` is off. Watches of the test
        part are ignored.

        Raises:
            KeyCollisionError: two video ids share a key.
        """
        video_ids = tuple(videos["video_id"])
        bags = catalogue_tokens(videos)
        content_vocabulary = shared_vocabulary(bags)
        profiles = [tuple(bag) for bag in viewers["attributes"]]
        vocabulary = shared_vocabulary(profiles)
        names = context_names(watches.columns) if context else ()
        past = np.flatnonzero((watches["part"] != "test").to_numpy())
        viewer, groups = _viewers_and_groups(watches["viewer_id"], past)
        known = watches.iloc[past]
        starts = np.flatnonzero(np.diff(viewer, prepend=-1))
        viewer_ids = tuple(known["viewer_id"].iloc[starts].astype(str))
        # Whoever has no profile has index -1, the last one, which is empty.
        found = pd.Index(viewers["viewer_id"]).get_indexer(pd.Index(viewer_ids, dtype=object))
        ids = [attribute_ids(bag, vocabulary) for bag in (*profiles, ())]
        train, held_out = (
            _watches(known[own], viewer[own], len(viewer_ids), video_ids, names)
            for own in ((known["part"] == part).to_numpy() for part in ("train", "validation"))
        )
        return RetrievalData(
            video_ids=video_ids,
            keys=unique_video_keys(video_ids),
            content_vocabulary=content_vocabulary,
            content=content_ids(bags, content_vocabulary),
            vocabulary=vocabulary,
            published_at=published_times(videos).astype(np.int64),
            viewer_ids=viewer_ids,
            attributes=np.stack(ids)[found],
            train=train,
            held_out=held_out,
            groups=groups,
            context=names,
        )

    def inputs(self, viewers: Sequence[ViewerFeatures], limit: int) -> dict[str, Int64Array]:
        """Return the viewer tower's inputs, for histories of at most `limit` videos."""
        return tower_inputs(viewers, self.video_rows, self.vocabulary, limit, self.context)

    @property
    def video_count(self) -> int:
        """Number of videos in the catalogue."""
        return len(self.video_ids)

    @property
    def watch_count(self) -> int:
        """Number of watches in the train part."""
        return len(self.train.rows)

    @cached_property
    def watch_counts(self) -> Int64Array:
        """How often each video is watched in the train part, int64[n]."""
        return np.bincount(self.train.rows, minlength=self.video_count)

    @cached_property
    def video_rows(self) -> VideoRows:
        """The index of rows by key, as a release has it."""
        return VideoRows(self.keys)

    @cached_property
    def published(self) -> Int64Array | None:
        """When each video was published, or first watched if that was before, int64[n].

        Unix seconds, 0 if unknown; None if every video came before all watches.
        """
        published, start = self.published_at.copy(), np.iinfo(np.int64).max
        np.minimum.at(published, self.train.rows, self.train.times)
        start = int(self.train.times.min(initial=start))
        return published if (published > start).any() else None

    def viewer_features(self, viewer: int) -> ViewerFeatures:
        """Return a viewer's features as served after the train part (without counts).

        The context is that of the last watch.
        """
        known = self.train.of(viewer)
        found = self._features(viewer, self.train.rows[known], self.train.times[known])
        last = self.train.context[known][-1:].tolist()
        return replace(found, context=self._ids(last[0] if last else ()))

    @cached_property
    def validation(self) -> tuple[HeldOut, ...]:
        """The last validation watch of each viewer who has one, at most VALIDATION_LIMIT."""
        return self._last_watches(np.diff(self.held_out.offsets) > 0)

    @cached_property
    def last_watches(self) -> tuple[HeldOut, ...]:
        """`validation`, or the last train watches if no watch is for validation.

        The latter only locate viewers in the vector space: no metric may be measured on them,
        since training has seen them.
        """
        return self.validation or self._last_watches(np.diff(self.train.offsets) > 1)

    def _last_watches(self, asked: BoolArray) -> tuple[HeldOut, ...]:
        """Return the last watch of each viewer who is `asked`, bool[viewers], or of a sample."""
        able = np.flatnonzero(asked)
        if len(able) > VALIDATION_LIMIT:
            able = np.sort(np.random.default_rng(0).choice(able, VALIDATION_LIMIT, replace=False))
        held_out: list[HeldOut] = []
        for viewer in able.tolist():
            parts = [(part, part.of(viewer)) for part in (self.train, self.held_out)]
            rows = np.concatenate([part.rows[own] for part, own in parts])
            times = np.concatenate([part.times[own] for part, own in parts])
            context = np.concatenate([part.context[own] for part, own in parts])[-1]
            features = replace(
                self._features(viewer, rows[:-1], times[:-1]),
                asked_at=int(times[-1]),
                context=self._ids(context.tolist()),
            )
            held_out.append(HeldOut(features, rows[:-1], int(rows[-1])))
        return tuple(held_out)

    @cached_property
    def _attribute_texts(self) -> dict[int, str]:
        return {number: text for text, number in self.vocabulary.items()}

    def _ids(self, context: Sequence[int]) -> ContextIds:
        """Return the ids of a watch, by feature of the data, as those of a request; 0 if none."""
        given = dict(zip(self.context, context, strict=False))
        return tuple(given.get(name, 0) for name in NAMES)

    def _features(self, viewer: int, rows: Int64Array, times: Int64Array) -> ViewerFeatures:
        """Return the features of a viewer who watched these rows, with known attributes only."""
        ids = self.attributes[viewer]
        return ViewerFeatures(
            history_keys=self.keys[rows[-HISTORY_LIMIT:]],
            history_times=times[-HISTORY_LIMIT:],
            watched_keys=self.keys[rows[-WATCHED_LIMIT:]],
            attributes=tuple(self._attribute_texts[number] for number in ids[ids > 0].tolist()),
        )

    def fingerprint(self) -> str:
        """Return the SHA-256 of all that training reads, in hexadecimal."""
        digest = hashlib.sha256("".join(self.context).encode())
        arrays: list[npt.NDArray[Any]] = [
            self.keys,
            self.content,
            self.published_at,
            self.attributes,
        ]
        arrays += [np.array([len(group) for group in self.groups])]
        for part in (self.train, self.held_out):
            arrays += [part.rows, part.times, part.offsets, part.context]
        for array in arrays:
            digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def _viewers_and_groups(
    viewer_ids: pd.Series, past: Int64Array
) -> tuple[Int64Array, tuple[range, ...]]:
    """Number the viewers of the watches at `past`, int64[p], and group them.

    A group ends before the viewer of every GROUP_WATCHES-th watch, and of the last one. Watches of
    the test part count too, so that the groups, and with them the weights that a seed gives, don't
    depend on whether they are left out before.
    """
    names = viewer_ids.to_numpy()
    every = np.cumsum(names[1:] != names[:-1])
    every = np.concatenate([[0], every])[: len(names)]
    known, viewer = np.unique(every[past], return_inverse=True)
    lasts = np.minimum(
        np.arange(GROUP_WATCHES, len(names) + GROUP_WATCHES, GROUP_WATCHES), len(names)
    )
    cuts = np.searchsorted(known, every[lasts - 1])
    bounds = np.unique(np.concatenate([[0], cuts, [len(known)]])).tolist()
    return viewer, tuple(map(range, bounds, bounds[1:]))


def _watches(
    watches: pd.DataFrame,
    viewer: Int64Array,
    viewers: int,
    video_ids: Sequence[str],
    context: Sequence[str],
) -> Watches:
    """Return the watches of a part, given the number of each one's viewer, int64[w]."""
    counts = np.bincount(viewer, minlength=viewers)
    codes, names = pd.factorize(watches["video_id"])
    rows = pd.Index(video_ids).get_indexer(pd.Index(names, dtype=object))
    ids = np.empty((len(watches), len(context)), np.int16)
    for place, name in enumerate(context):
        ids[:, place] = watches[watch_column(name)]
    return Watches(
        rows=rows.astype(np.int64)[codes],
        times=watches["time"].to_numpy("datetime64[s]").astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        context=ids,
    )
