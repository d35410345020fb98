"""The ranker's training set: this release's candidates for each label, with features as of then.

Label events are the validation watches. Retrieval wasn't trained on them, except that the towers'
best epoch was selected on each viewer's last one. Candidates come from the pipeline that serves,
whose popular and fresh videos are those of the newest snapshot, as far as they were published by
then; features are as of a request at the label's time, as in evaluation, and a label's history
includes the viewer's earlier labels.
Outcome labels are the same watches and the last watches of the train part; for the latter no
candidates are retrieved, since retrieval was trained on them. Videos hidden since the first of
these are outcome labels, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pandas as pd
import xxhash
from rich.console import Console

from vireo.server.arrays import BoolArray, Float32Array, Int64Array
from vireo.server.features.context import NAMES, context_input
from vireo.server.features.keys import VideoRows, video_keys
from vireo.server.features.model_inputs import (
    RANKER_HISTORY,
    RETRIEVAL_FEATURES,
    VideoTable,
    attribute_ids,
    match_features,
    retrieval_features,
    viewer_features,
)
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline, CandidateQuery
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases import layout
from vireo.server.releases.tables import VECTOR_TYPES, read_table
from vireo.training.config import RankingConfig
from vireo.training.features.publication import of_the_past
from vireo.training.features.statistics import just_before, video_features_at
from vireo.training.features.viewers import PastViewers
from vireo.training.features.watches import load_hidden, outcome_labels
from vireo.training.progress import tracked

OUTCOME_WATCHES = 11
"""Number of a viewer's last non-test watches that are outcome labels."""
_LABELS_AT_A_TIME = 65_536
"""Labels joined at once; bounds memory, at some 10 kB for each of a viewer with many watches."""


def draw_candidates(
    release: CandidateRelease,
    viewers: Sequence[ViewerFeatures],
    targets: Int64Array,
    count: int,
    title: str = "drawing candidates",
) -> tuple[Int64Array, Float32Array]:
    """Return up to `count` candidates of each of m viewers, best first.

    Videos that were published after a viewer's request aren't among them, apart from what was
    watched then: `targets`, int64[m], -1 for videos that the release lacks.

    Returns:
        Rows int64[m, count], padded with -1, and their RETRIEVAL_FEATURES, float32[m, count, r].

    Raises:
        Exception: any error of a source: without its candidates, training would differ from
            serving.
    """
    release, embargo = of_the_past(release)
    pipeline = CandidatePipeline(release, fail_open=False)
    rows = np.full((len(viewers), count), -1, np.int64)
    retrieval = np.zeros((len(viewers), count, len(RETRIEVAL_FEATURES)), np.float32)
    for place, viewer in enumerate(tracked(viewers, title, Console(stderr=True))):
        embargo.ask(viewer.asked_at, int(targets[place]))
        # The tower also runs on single viewers: a batch rounds differently, which would change
        # the order of videos with nearly equal scores.
        drawn = pipeline.retrieve(CandidateQuery(viewer=viewer, count=count))
        found = len(drawn.keys)
        rows[place, :found] = drawn.rows
        retrieval[place, :found] = retrieval_features(drawn.scores, drawn.source_masks)
    return rows, retrieval


@dataclass(frozen=True)
class ViewerColumns:
    """Viewer inputs of m label events."""

    history_rows: Int64Array
    """int64[m, RANKER_HISTORY], oldest first, -1 for padding on the right."""
    history_lengths: Int64Array
    """int64[m]."""
    viewer_features: Float32Array
    """VIEWER_FEATURES, float32[m, v]."""
    attributes: Int64Array
    """int64[m, a]."""
    context: Int64Array
    """Ids of the context features that the release reads, int64[m, c]."""
    viewer: Int64Array
    """Index of each event's viewer, int64[m]."""
    held_out: BoolArray
    """Whether the viewer is held out from fitting, bool[m]."""

    def take(self, places: npt.NDArray[np.intp]) -> ViewerColumns:
        """Return the events at `places`."""
        return ViewerColumns(*(column[places] for column in vars(self).values()))

    @staticmethod
    def joined(parts: Sequence[ViewerColumns]) -> ViewerColumns:
        """Concatenate the events of all parts."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return ViewerColumns(*map(np.concatenate, columns))


@dataclass(frozen=True)
class CandidateLists:
    """m lists of candidates, padded to n."""

    viewers: ViewerColumns
    rows: Int64Array
    """Rows of the candidates in their order, int64[m, n], -1 for padding."""
    features: Float32Array
    """VIDEO_FEATURES as of the list's time, float32[m, n, f]."""
    retrieval: Float32Array
    """RETRIEVAL_FEATURES, float32[m, n, r]."""
    match: Float32Array
    """MATCH_FEATURES, float32[m, n, k]."""


@dataclass(frozen=True)
class WatchLists(CandidateLists):
    """One list of candidates in retrieval order for each of m label watches."""

    label: Int64Array
    """Column of the watched video, int64[m]; -1 if retrieval missed it. It isn't added to the list
    then: no served candidate lacks a source, so the missing source would leak the label."""


@dataclass(frozen=True)
class ShownLists(CandidateLists):
    """The videos of m slates as they were shown, with what came of each."""

    surface: Int64Array
    """Index in SURFACES, int64[m]."""
    position: Int64Array
    """Index of the position, below POSITIONS, int64[m, n]."""
    played: Float32Array
    """1 or 0, NaN if unknown and for padding, float32[m, n]."""
    outcomes: Float32Array
    """As the labels of OutcomeLabels, float32[m, n, t]."""


@dataclass(frozen=True)
class OutcomeLabels(CandidateLists):
    """m videos that were watched or hidden, each a list of one, and what followed.

    Retrieval features are zeros: tasks of outcomes don't read them.
    """

    labels: Float32Array
    """Whether each of OUTCOMES came true: 1 or 0, NaN if unknown, float32[m, t]."""


@dataclass(frozen=True)
class RankingSet:
    """All data that the ranker is fitted and selected on."""

    watches: WatchLists
    outcomes: OutcomeLabels
    shown: ShownLists | None = None
    """What the log's slates showed, if it is trained on; `save_ranking_set` leaves it out."""


def is_held_out(viewer_id: str, share: float) -> bool:
    """Return whether a viewer is held out from fitting, by a hash of its id."""
    return xxhash.xxh3_64_intdigest(viewer_id.encode(), seed=15) < share * 2**64


def chosen_viewers(viewer_ids: Iterable[str], limit: int) -> BoolArray:
    """Select at most `limit` viewers, by a hash of the id, whose watches are labels: bool[n]."""
    hashes = [xxhash.xxh3_64_intdigest(viewer.encode(), seed=16) for viewer in viewer_ids]
    numbers = np.array(hashes, np.uint64)
    chosen = np.ones(len(numbers), np.bool_)
    if len(numbers) > limit:
        chosen = numbers <= np.partition(numbers, limit - 1)[limit - 1]
    return chosen


def build_ranking_set(
    watches: pd.DataFrame, repo: Path, release: CandidateRelease, config: RankingConfig
) -> RankingSet:
    """Build the training set.

    Args:
        watches: the split's watches, by viewer, then time.
        repo: the Feast repository.
        release: the staged release, which has no ranker yet.
        config: number of candidates and viewers, and the held-out share.
    """
    labels = _labels(watches, load_hidden(repo), config.viewers)
    number, names = pd.factorize(labels["viewer_id"])
    held_out = np.array([is_held_out(name, config.holdout_share) for name in names], bool)
    listed = (labels["part"] == "validation").to_numpy()
    wanted = release.rows.find(video_keys(labels["video_id"].tolist()))
    columns, (rows, retrieval) = _columns_and_candidates(
        repo, release, labels, wanted, listed, config.candidates
    )
    columns = replace(columns, viewer=number.astype(np.int64), held_out=held_out[number])
    table = match_table(release)
    outcomes = OutcomeLabels(
        viewers=columns,
        rows=wanted[:, None],
        features=_features(repo, release, wanted[:, None], labels),
        retrieval=np.zeros((len(labels), 1, len(RETRIEVAL_FEATURES)), np.float32),
        match=matches(columns, wanted[:, None], table, release.context),
        labels=outcome_labels(labels),
    )
    viewers = columns.take(np.flatnonzero(listed))
    hits = (rows == wanted[listed, None]) & (rows >= 0)
    lists = WatchLists(
        viewers=viewers,
        rows=rows,
        features=_features(repo, release, rows, labels[listed]),
        retrieval=retrieval,
        match=matches(viewers, rows, table, release.context),
        label=np.where(hits.any(1), hits.argmax(1), -1).astype(np.int64),
    )
    return RankingSet(lists, outcomes)


def _labels(watches: pd.DataFrame, hidden: pd.DataFrame, viewers: int) -> pd.DataFrame:
    """Return the non-test watches that are labels, of at most `viewers` viewers, then their hides.

    Whether a video was hidden is unknown if the data has no hides.
    """
    past = watches[watches["part"] != "test"]
    everyone = past["viewer_id"].unique()
    chosen = pd.Index(everyone[chosen_viewers(everyone, viewers)])
    if len(chosen) < len(everyone):
        past = past[past["viewer_id"].isin(chosen)]
    labels = past.groupby("viewer_id", sort=False).tail(OUTCOME_WATCHES)
    if hidden.empty:
        return labels
    # As far back as the watches that are labels.
    since = hidden["viewer_id"].map(labels.groupby("viewer_id")["time"].min())
    known = hidden[hidden["time"] >= since].groupby("viewer_id", sort=False).tail(OUTCOME_WATCHES)
    return pd.concat([labels.assign(hidden=0.0), known.assign(hidden=1.0)])


def _columns_and_candidates(
    repo: Path,
    release: CandidateRelease,
    labels: pd.DataFrame,
    wanted: Int64Array,
    listed: BoolArray,
    count: int,
) -> tuple[ViewerColumns, tuple[Int64Array, Float32Array]]:
    """Return the viewers of all labels, and what `draw_candidates` returns for those listed.

    Viewers' features are read and freed in parts, since they take the most memory. `wanted` are the
    rows of the labels' videos.
    """
    columns, drawn, past = [], [], PastViewers(repo)
    total = -(-len(labels) // _LABELS_AT_A_TIME)
    for part, start in enumerate(range(0, len(labels), _LABELS_AT_A_TIME), 1):
        viewers = past.before(labels.iloc[start : start + _LABELS_AT_A_TIME])
        columns.append(viewer_columns(viewers, release.rows, release.vocabulary, release.context))
        draws = np.flatnonzero(listed[start : start + len(viewers)])
        asked, targets = [viewers[place] for place in draws], wanted[start + draws]
        title = "drawing candidates" + (f", part {part} of {total}" if total > 1 else "")
        drawn.append(draw_candidates(release, asked, targets, count, title))
    rows, retrieval = (np.concatenate(arrays) for arrays in zip(*drawn, strict=True))
    return ViewerColumns.joined(columns), (rows, retrieval)


def viewer_columns(
    viewers: Sequence[ViewerFeatures],
    rows: VideoRows,
    vocabulary: Mapping[str, int],
    context: Sequence[str],
) -> ViewerColumns:
    """Return the viewers' inputs as in `ranking_inputs`, with the history by row.

    Each entry counts as a different viewer, none of them held out.
    """
    history = np.full((len(viewers), RANKER_HISTORY), -1, np.int64)
    lengths = np.zeros(len(viewers), np.int64)
    for place, viewer in enumerate(viewers):
        found = rows.find(viewer.history_keys)
        recent = found[found >= 0][-RANKER_HISTORY:]
        history[place, : len(recent)] = recent
        lengths[place] = len(recent)
    return ViewerColumns(
        history_rows=history,
        history_lengths=lengths,
        viewer_features=np.stack([viewer_features(viewer) for viewer in viewers]),
        attributes=np.stack([attribute_ids(viewer.attributes, vocabulary) for viewer in viewers]),
        context=np.stack([context_input(viewer.context, context) for viewer in viewers]),
        viewer=np.arange(len(viewers)),
        held_out=np.zeros(len(viewers), bool),
    )


def matches(
    viewers: ViewerColumns, rows: Int64Array, table: VideoTable, context: Sequence[str]
) -> Float32Array:
    """Return the match features of the videos at `rows` int64[m, n], float32[m, n, k].

    Those of row -1 are 0.
    """
    contexts = np.zeros((len(rows), len(NAMES)), np.int64)
    contexts[:, [NAMES.index(name) for name in context]] = viewers.context
    width = 1 if table.languages is None else 2
    matches = np.zeros((*rows.shape, width), np.float32)
    for place, length in enumerate(viewers.history_lengths.tolist()):
        history = viewers.history_rows[place, :length]
        real = rows[place] >= 0
        ids = tuple(contexts[place].tolist())
        matches[place, real] = match_features(ids, history, rows[place, real], table)
    return matches


def match_table(release: CandidateRelease) -> VideoTable:
    """Return what the match features of a staged release read."""
    folder, count = release.folder, len(release.keys)
    languages = None
    if release.manifest.feature_schema.languages:
        languages = read_table(folder, layout.LANGUAGES, np.int16, (count,))
    content = read_table(folder, layout.CONTENT_VECTORS, VECTOR_TYPES, (count, None))
    features = read_table(folder, layout.VIDEO_FEATURE_TABLE, np.float32, (count, None))
    creators = read_table(folder, layout.CREATORS, np.int64, (count,))
    return VideoTable(release.vectors, features, content, creators, languages)


def _features(
    repo: Path, release: CandidateRelease, rows: Int64Array, labels: pd.DataFrame
) -> Float32Array:
    """Return VIDEO_FEATURES of the videos at `rows` int64[m, n] as of requests at m labels."""
    asked_at = labels["time"].to_numpy("datetime64[s]").astype(np.int64)
    return video_features_at(repo, release.ids, rows, just_before(asked_at))


def save_ranking_set(path: Path, data: RankingSet, fingerprint: str) -> None:
    """Write the set to `path` atomically."""
    arrays = {"fingerprint": np.array(fingerprint)}
    for part, value in (("watches", data.watches), ("outcomes", data.outcomes)):
        columns = vars(value) | vars(value.viewers)
        arrays |= {f"{part}/{name}": column for name, column in columns.items()}
        del arrays[f"{part}/viewers"]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    partial.replace(path)


def load_ranking_set(path: Path, fingerprint: str) -> RankingSet | None:
    """Return the set at `path`; None if it is missing, damaged, or of another fingerprint."""

    def of(kind: type[Any], part: str, **known: ViewerColumns) -> Any:
        names = [field.name for field in fields(kind) if field.name not in known]
        return kind(**{name: file[f"{part}/{name}"] for name in names}, **known)

    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["fingerprint"]) != fingerprint:
                return None
            return RankingSet(
                of(WatchLists, "watches", viewers=of(ViewerColumns, "watches")),
                of(OutcomeLabels, "outcomes", viewers=of(ViewerColumns, "outcomes")),
            )
    except (OSError, ValueError, KeyError, BadZipFile):
        return None  # The file is only a cache: the set is built again.
