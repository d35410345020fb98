"""Lists of what archived slates showed, which the ranker learns plays from.

A list has the videos of one slate. What was played is a positive, what was seen and not played a
negative, and anything else unknown. Features are those of the record; none is computed again.
Vectors, and the match features that follow from them and the recorded history, are the new
release's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from rich.console import Console

from vireo.server.arrays import BoolArray, Float32Array, Int64Array
from vireo.server.consumer.archived_rows import SLATE_ROWS, Row, request_of, rows_in
from vireo.server.features.activity import Bounce
from vireo.server.features.fatigue import times_shown
from vireo.server.features.keys import video_keys
from vireo.server.features.model_inputs import (
    RETRIEVAL_FEATURES,
    VIDEO_FEATURES,
    retrieval_features,
)
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.pod.viewer import decode_viewer
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.signals import OUTCOMES, SCORES
from vireo.training.data.shown import shown_videos
from vireo.training.data.split import FINISHED_FRACTION, LIKED_FRACTION
from vireo.training.ranking.fatigue import fitted_strength
from vireo.training.ranking.model import POSITIONS, SURFACES
from vireo.training.ranking.training_set import (
    ShownLists,
    chosen_viewers,
    is_held_out,
    match_table,
    matches,
    viewer_columns,
)

MIN_PLAYED_SLATES = 300
"""Minimum slates of which something was played: fewer say little beside the data set's watches."""
_MAX_LENGTH = 64
"""Videos of a slate that are lists' at most, the first ones."""
_SLATES_AT_A_TIME = 512
_NOT_RANKED = "that weren't ranked, or whose features weren't recorded"
_UNKNOWN = "that this release lacks"
_MEASURED = "of slates that led to a held-out watch"
_VIDEO = np.dtype(
    [
        *((name, np.int64) for name in ("slate", "key", "position")),
        ("played", np.float32),
        ("features", np.float32, len(VIDEO_FEATURES)),
        ("retrieval", np.float32, len(RETRIEVAL_FEATURES)),
        ("outcomes", np.float32, len(OUTCOMES)),
    ]
)
_SCORES = {score.name: f"retrieval_{score.name}" for score in SCORES}
_COLUMNS = (
    *("request_id", "answered_at", "asked_at", "context", "viewer_features", "retrieval"),
    *("candidate_keys", "candidate_sources", "recorded", "task_watch", *_SCORES.values()),
    *("video_ids", "video_features"),
)


@dataclass(frozen=True)
class ShownLog:
    """What m slates of the archive showed, and what came of it."""

    viewer_ids: Sequence[str]
    viewers: Sequence[ViewerFeatures]
    """Each slate's viewer, with the video that was playing as the last one watched."""
    surface: Int64Array
    """Index in SURFACES, int64[m]."""
    videos: npt.NDArray[np.void]
    """All videos, by slate and position: `slate`, its number; `key`; the other columns of
    ShownLists."""
    fatigue: float
    """What `fitted_strength` returns."""
    left_out: Mapping[str, int]
    """Number of videos that were left out, by the reason."""

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what was shown, and of what came of it."""
        names = "\n".join(self.viewer_ids).encode()
        return xxhash.xxh3_128_hexdigest(names + self.videos.tobytes())


def read_log(
    slates: Sequence[Path], events: Sequence[Path], bounce: Bounce, limit: int
) -> ShownLog:
    """Read what was shown.

    Args:
        slates: Parquet files of the archive.
        events: Parquet files of the archive.
        bounce: which plays are bounces: they count as not played.
        limit: maximum slates; of more, a sample is drawn.
    """
    shown = shown_videos(slates, events)
    request = shown["request_id"].combine_chunks()
    codes = request.indices.to_numpy()
    seen = np.unique(codes[shown["seen"].to_numpy()])
    wanted = seen[chosen_viewers(request.dictionary.take(seen).to_pylist(), limit)]
    shown = shown.filter(pa.array(np.isin(codes, wanted)))
    codes = codes[np.isin(codes, wanted)]
    first = np.flatnonzero(np.diff(codes, prepend=-1))
    lengths = np.diff(first, append=len(codes))
    head = shown.take(first)

    videos = np.zeros(len(codes), _VIDEO)
    videos["slate"] = np.repeat(np.arange(len(first)), lengths)
    videos["key"] = video_keys(shown["video_id"].to_pylist())
    videos["position"] = np.minimum(shown["position"].to_numpy(), POSITIONS) - 1
    videos["played"], videos["outcomes"] = _labels(shown, bounce)
    # Of slates that share a request id the first one counts.
    times, names = head["answered_at"].to_pylist(), head["request_id"].to_pylist()
    numbers = {pair: number for number, pair in enumerate(zip(names, times, strict=True))}
    viewers, ranked = [ViewerFeatures()] * len(first), np.zeros(len(codes), np.bool_)
    watch, before = np.full(len(codes), np.nan), np.zeros(len(codes))
    for row in _recorded(slates, names):
        number = numbers.get((row["request_id"], row["answered_at"]))
        if number is not None and row["recorded"]:
            part = slice(first[number], first[number] + lengths[number])
            viewer = _viewer(row)
            impressions = viewer.shown_keys, viewer.shown_times
            before[part] = times_shown(videos["key"][part], *impressions, viewer.asked_at)
            nothing = np.empty(0, np.int64)
            viewers[number] = replace(
                viewer, watched_keys=nothing, shown_keys=nothing, shown_times=nothing
            )
            ranked[part], watch[part] = _add_features(row, videos[part])
    position = shown["position"].to_numpy()
    return ShownLog(
        viewer_ids=head["viewer_id"].to_pylist(),
        viewers=viewers,
        surface=np.array([*map(SURFACES.index, head["surface"].to_pylist())], np.int64),
        videos=videos[ranked],
        fatigue=fitted_strength(watch, position, before, videos["played"]),
        left_out=+Counter({_NOT_RANKED: int(np.sum(~ranked))}),
    )


def _labels(shown: pa.Table, bounce: Bounce) -> tuple[Float32Array, Float32Array]:
    """Return whether each video was played, and OUTCOMES as of a data set: 1, 0 or NaN."""
    names = ("watched_fraction", "watched_seconds", "played", "liked", "hidden", "seen")
    fraction, seconds, played, liked, hidden, seen = (shown[name].to_numpy() for name in names)
    played = played & ~bounce.among(fraction, seconds.astype(np.float32))
    measured = ~np.isnan(fraction)
    outcomes: Mapping[str, tuple[BoolArray, BoolArray]] = {
        "liked": (liked | (fraction >= LIKED_FRACTION), played & (measured | liked.any())),
        "finished": (fraction >= FINISHED_FRACTION, played & measured),
        "hidden": (hidden, hidden | (played & hidden.any())),
    }
    found = [outcomes[task.outcome] for task in OUTCOMES]
    labels = np.stack([np.where(known, true, np.nan) for true, known in found], 1)
    return np.where(seen, played, np.nan).astype(np.float32), labels.astype(np.float32)


def _recorded(slates: Sequence[Path], requests: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of some requests, with _COLUMNS."""
    own = pc.field("request_id").isin(pa.array(requests, pa.string()))
    for batch in rows_in(SLATE_ROWS, slates).to_batches(
        columns=[*_COLUMNS], filter=own, batch_size=_SLATES_AT_A_TIME, batch_readahead=1
    ):
        yield from batch.to_pylist()


def _viewer(row: Row) -> ViewerFeatures:
    """Return a slate's viewer as ranking read it."""
    request = request_of(row)
    seed = request.seed_key if request.HasField("seed_key") else None
    return decode_viewer(request.viewer).playing(seed)


def _add_features(row: Row, videos: npt.NDArray[np.void]) -> tuple[BoolArray, Float32Array]:
    """Set the features of a slate's videos as they were ranked.

    Returns:
        Which of them were ranked, bool[n], and their probabilities of a watch, float32[n].
    """
    recorded = np.array(row["recorded"], np.int64)
    scores = {
        name: np.array(row[column] or np.zeros(len(recorded)), np.float32)
        for name, column in _SCORES.items()
    }
    masks = np.array(row["candidate_sources"], np.uint32)[recorded]
    keys = np.array(row["candidate_keys"], np.int64)[recorded].tolist()
    places = {key: place for place, key in enumerate(keys)}
    found = np.array([places.get(key, -1) for key in videos["key"].tolist()])
    known = found >= 0
    watch = np.full(len(videos), np.nan, np.float32)
    watch[known] = np.array(row["task_watch"], np.float32)[found[known]]
    features = np.array(row["video_features"] or (), np.float32)
    if len(features) != len(row["video_ids"]) * len(VIDEO_FEATURES):
        features = np.full((len(videos), len(VIDEO_FEATURES)), np.nan)  # of a build with others
    features = features.reshape(-1, len(VIDEO_FEATURES))[: len(videos)]
    ranked = known & np.isfinite(features).all(1)
    videos["retrieval"][ranked] = retrieval_features(scores, masks)[found[ranked]]
    videos["features"][ranked] = features[ranked]
    return ranked, watch


def shown_lists(
    log: ShownLog,
    watches: pd.DataFrame,
    release: CandidateRelease,
    holdout_share: float,
    console: Console,
) -> ShownLists | None:
    """Return the lists to train a ranker of a release on; None if too few have a play.

    Slates whose plays have a watch that is held out to measure on aren't among them.

    Args:
        log: the slates.
        watches: the split's watches.
        release: the staged release.
        holdout_share: share of the viewers who are held out from fitting.
        console: where it says what there is, and what was left out.
    """
    held_out = watches[watches["part"] == "test"]
    keys = dict(zip(held_out["viewer_id"], video_keys(held_out["video_id"].tolist()), strict=True))
    slate, key = log.videos["slate"], log.videos["key"]
    tested = np.array([keys.get(name, 0) for name in log.viewer_ids], np.int64)[slate] == key
    measured = np.isin(slate, slate[tested & (log.videos["played"] == 1)])
    rows = release.rows.find(key)
    left_out = {**log.left_out, _UNKNOWN: np.sum(rows < 0), _MEASURED: np.sum(measured)}
    place = np.arange(len(slate)) - np.searchsorted(slate, slate)
    known = ~measured & (rows >= 0) & (place < _MAX_LENGTH)
    videos, rows = log.videos[known], rows[known]
    numbers, index = np.unique(videos["slate"], return_inverse=True)
    names = [log.viewer_ids[number] for number in numbers]
    held = np.array([is_held_out(name, holdout_share) for name in names], np.bool_)
    played = videos["played"] == 1
    fitted = len(np.unique(index[played & ~held[index]]))
    console.print(
        f"{len(numbers):,} slates of the log, {int(np.sum(played)):,} of their videos played; left "
        f"out: {'; '.join(f'{n:,} videos {why}' for why, n in left_out.items() if n) or 'none'}",
        soft_wrap=True,
    )
    if fitted < MIN_PLAYED_SLATES:
        console.print(
            f"{fitted:,} slates to fit have a play, fewer than {MIN_PLAYED_SLATES}: the ranker is "
            "trained without them"
        )
        return None
    place = np.arange(len(index)) - np.searchsorted(index, index)
    lists = np.zeros((len(numbers), place.max() + 1), _VIDEO)
    lists["played"], lists["outcomes"] = np.nan, np.nan
    lists[index, place] = videos
    list_rows = np.full(lists.shape, -1, np.int64)
    list_rows[index, place] = rows
    viewers = viewer_columns(
        [log.viewers[number] for number in numbers],
        release.rows,
        release.vocabulary,
        release.context,
    )
    return ShownLists(
        viewers=replace(viewers, held_out=held),
        rows=list_rows,
        match=matches(viewers, list_rows, match_table(release), release.context),
        surface=log.surface[numbers],
        **{
            name: np.ascontiguousarray(lists[name])
            for name in ("features", "retrieval", "position", "played", "outcomes")
        },
    )
