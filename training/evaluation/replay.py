"""Make archived slates again from their records and releases, and say where they differ.

What the log added to a release at that moment is in the record: takedowns, live videos with their
features, and which candidates were trending or new. Sources of the log propose those again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from vireo.server.arrays import Float32Array, Int64Array
from vireo.server.candidate.service import decode
from vireo.server.consumer.archived_rows import Row, request_of
from vireo.server.event_log.log import Entry
from vireo.server.features.keys import video_key
from vireo.server.live.settings import TRENDING_HALF_LIFE
from vireo.server.pod.viewer import decode_viewer
from vireo.server.ranking.service import page_rules
from vireo.server.recommend.candidates import Candidates
from vireo.server.recommend.catalogue.live_videos import LiveVideos
from vireo.server.recommend.catalogue.overlay import Overlay
from vireo.server.recommend.catalogue.placement import KnownVideos
from vireo.server.recommend.catalogue.trends import KEY, Trends
from vireo.server.recommend.filters.expression import BadFilterError
from vireo.server.recommend.ranking.pipeline import (
    NEW_IMPRESSIONS,
    RankedCandidates,
    RankingPipeline,
    RankingQuery,
)
from vireo.server.recommend.ranking.release import RankingRelease
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline, UnknownSeedError
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.signals import SCORES, TASKS, TRENDING
from vireo.v1 import log_pb2, ranking_pb2, rules_pb2
from vireo.v1.catalog_pb2 import Video

NEAR = 1e-5
"""Maximum difference that another kind of processor explains, relative to a value above 1."""
_MAX_LIVE = 4096
"""Maximum live videos of a slate; a record has at most those of its candidates and its viewer."""


@dataclass(frozen=True)
class Difference:
    """The first value of a slate that isn't what was recorded."""

    request_id: str
    stage: str
    """"viewer", "retrieval" or "ranking"."""
    value: str
    """What differs, for example "two_tower of video-3"."""
    recorded: str
    computed: str

    def __str__(self) -> str:
        """Return the slate, and both values."""
        return (
            f"{self.request_id} at {self.stage}: {self.value} was {self.recorded}, and is "
            f"{self.computed}"
        )


@dataclass(frozen=True)
class Replayed:
    """A slate that was made again."""

    skipped: str = ""
    """Why it can't be made again; empty if it was."""
    difference: Difference | None = None
    """The first difference; None if it is the same."""
    exact: bool = True
    """Whether it is the same bit for bit, and not just within NEAR."""


class Replayer:
    """Both stages of a release, as they were at one slate after another. Use it from one thread.

    Slates must come in the order of their times.
    """

    def __init__(self, folder: Path) -> None:
        """Load the release in `folder`; raise ReleaseError if it can't be."""
        self._now, self._positions = 0.0, count(1)
        self._overlay = Overlay(_MAX_LIVE, clock=lambda: self._now)
        self._trends = Trends(TRENDING_HALF_LIFE, clock=lambda: float(next(self._positions)))
        self._followed: list[LiveVideos] = []
        self._live: dict[str, Video] = {}
        self._blocked: set[int] = set()
        release = CandidateRelease.load(folder, live=self, clock=lambda: self._now)
        self.retrieval = CandidatePipeline(release)
        self.ranking = RankingPipeline(RankingRelease.load(folder, self))

    def live_videos(self, known: KnownVideos, folder: Path) -> LiveVideos:  # noqa: ARG002
        """Return the live videos of a part of the release, none at first."""
        made = LiveVideos(self._overlay, self._trends, known, ranked=known.features is not None)
        self._followed.append(made)
        return made

    def _go_to(self, row: Row, wanted: Mapping[str, Video]) -> None:
        """Take over what the log had added to the release at a slate, as one of the stages knew it.

        `wanted` are the live videos by their ids.
        """
        self._now = row["answered_at"].timestamp()
        changes = [self._entry(name, gone=True) for name in self._live.keys() - wanted.keys()]
        changes += [
            self._entry(name, video)
            for name, video in wanted.items()
            if self._live.get(name) != video
        ]
        self._live = {**wanted}
        # A live one isn't taken down: it is blocked by what the filter says of its new content.
        blocked = {*row["blocked_keys"]} - {*map(video_key, wanted)}
        self._overlay.take(changes)
        self._overlay.take_takedowns(
            self._entry(name, gone=key in blocked)
            for key, name in self._names(blocked ^ self._blocked)
        )
        self._blocked = blocked
        self._trends.update(KEY, _trending(row, wanted).SerializeToString())
        touched = self._overlay.newly_touched()
        for videos in self._followed:
            videos.update(touched)
            while videos.place_some():
                pass

    def _names(self, keys: set[int]) -> Iterator[tuple[int, str]]:
        release = self.retrieval.release
        rows = release.rows.find(np.array([*keys], np.int64)).tolist()
        return ((key, release.ids[row]) for key, row in zip(keys, rows, strict=True) if row >= 0)

    def _entry(self, name: str, video: Any = None, *, gone: bool = False) -> Entry:
        position = next(self._positions)
        change = log_pb2.CatalogChange(video=video, removed=gone)
        change.video.video_id, change.received_at.seconds = name, position
        return Entry(position, "", change.SerializeToString())

    def retrieve(self, row: Row) -> Candidates:
        """Return the candidates of a slate, without those that its gateway left out."""
        videos = map(Video.FromString, row["retrieved_videos"])
        self._go_to(row, {each.video_id: each for each in videos})
        query, _ = decode(request_of(row), self.retrieval.release)
        found = self.retrieval.retrieve(query)
        left = ~np.isin(found.keys, np.array(row["left_out_keys"], np.int64))
        return found if left.all() else found.take(left.nonzero()[0])

    def rank(self, row: Row, found: Candidates, *, rules: bool = True) -> RankedCandidates:
        """Return the page of a slate from its candidates, all of them recorded.

        Args:
            row: the slate.
            found: its candidates, of which `rules` has columns.
            rules: whether to apply the site's rules, as recorded of those candidates.
        """
        recorded = [ranking_pb2.RecordedVideo.FromString(each) for each in row["ranked_videos"]]
        self._go_to(row, {each.video.video_id: each.video for each in recorded})
        live = self.ranking.release.live
        assert live is not None, "it was loaded with a log"
        for each in filter(attrgetter("features"), recorded):
            live.features[live.places[video_key(each.video.video_id)]] = each.features
        request, message = request_of(row), rules_pb2.RuleColumns.FromString(row["rule_columns"])
        asked = request.HasField("rules") and rules
        return self.ranking.rank(
            RankingQuery(
                viewer=decode_viewer(request.viewer),
                keys=found.keys,
                scores={score.name: found.scores[score.name] for score in SCORES},
                source_masks=found.source_masks,
                page_size=row["page_size"],
                seed_key=request.seed_key if request.HasField("seed_key") else None,
                rules=page_rules(request.rules, message, len(found)) if asked else None,
                recorded=len(found),
            )
        )


def _trending(row: Row, live: Iterable[str]) -> log_pb2.Trending:
    """Return what was trending, as far as it became a candidate, and which videos were seen."""
    keys = [*row["candidate_keys"], *row["left_out_keys"]]
    masks = [*row["candidate_sources"], *row["left_out_sources"]]
    trending = [key for key, mask in zip(keys, masks, strict=True) if mask & TRENDING.bit]
    # The page has the best unseen ones in the positions that are reserved for them.
    page = zip(row["recorded"], row["placements"], strict=False)
    unseen = {row["candidate_keys"][place] for place, placement in page if placement == "new"}
    seen = {*map(video_key, live)} - unseen
    message = log_pb2.Trending(new_keys=seen, new_impressions=[NEW_IMPRESSIONS] * len(seen))
    weights = range(len(trending), 0, -1)
    message.lists.add(locale="", keys=trending, weights=weights)
    return message


def replayed(row: Row, releases: Mapping[str, Replayer]) -> Replayed:
    """Return a slate made again, with its first difference.

    Args:
        row: the slate.
        releases: the releases that answered, by their ids.
    """
    if not row["candidate_keys"]:
        return Replayed(skipped="it has no candidates: the popular list, or nothing is left")
    if row["failed_sources"]:
        return Replayed(skipped=f"sources had failed: {', '.join(row['failed_sources'])}")
    ranked_videos = map(ranking_pb2.RecordedVideo.FromString, row["ranked_videos"])
    if row["lacks_changes"] or not all(each.features for each in ranked_videos):
        return Replayed(skipped="its record lacks changes: too many, or a pod was taking them in")
    if not row["recorded"]:
        return Replayed(skipped="it wasn't ranked, or its ranking wasn't recorded")
    if gone := {row["retrieval_release_id"], row["release_id"]} - releases.keys():
        return Replayed(skipped=f"release {min(gone)} is gone")
    keys = row["candidate_keys"]
    page = [keys[place] for place in row["recorded"][: len(row["video_ids"])]]
    if page != [video_key(each) for each in row["video_ids"]]:
        return Replayed(skipped="the ranking pod's release lacked some of its candidates")
    retrieving = releases[row["retrieval_release_id"]]
    found = retrieving.retrieve(row)
    compared = _Compared(row, "retrieval")
    compared.keys("candidate", row["candidate_keys"], found.keys)
    compared.keys("sources", row["candidate_sources"], found.source_masks)
    places = np.array(row["recorded"], np.int64)
    for score in SCORES:
        if compared.first is None:
            values = found.scores[score.name].take(places)
            compared.values(score.name, row[f"retrieval_{score.name}"], values)
    if compared.first is not None:
        return Replayed(difference=compared.first, exact=compared.exact)
    answer = releases[row["release_id"]].rank(row, found)
    record, of_ranking = answer.record, _Compared(row, "ranking", exact=compared.exact)
    assert record is not None, "a record is asked for"
    own = np.argsort(record.places)[places]
    for task in TASKS:
        if row[column := f"task_{task.name}"] and column in record.scores:
            of_ranking.values(column, row[column], record.scores[column][own])
    of_ranking.values("score", row["score"], record.scores["score"][own])
    of_ranking.keys("position", page, answer.keys)
    return Replayed(difference=of_ranking.first, exact=of_ranking.exact)


class _Compared:
    """The first difference of a stage."""

    def __init__(self, row: Row, stage: str, *, exact: bool = True) -> None:
        self._row, self._stage = row, stage
        self.first: Difference | None = None
        self.exact = exact

    def keys(self, what: str, recorded: Sequence[int], made: Int64Array | np.ndarray) -> None:
        """Compare whole numbers in order."""
        if self.first is not None or recorded == (values := made.tolist()):
            return
        pairs = zip(recorded, values, strict=False)
        place = next(
            (at for at, (a, b) in enumerate(pairs) if a != b), min(len(recorded), len(values))
        )
        texts = [str(each[place]) if place < len(each) else "none" for each in (recorded, values)]
        self.first = self._difference(f"{what} {place + 1}", *texts)

    def values(self, what: str, recorded: Sequence[float], made: Float32Array) -> None:
        """Compare one value of each recorded candidate."""
        wanted = np.array(recorded, np.float32)
        if np.array_equal(wanted, made):
            return
        self.exact = False
        far = np.abs(wanted - made) > NEAR * np.maximum(1, np.abs(wanted))
        if far.any() and self.first is None:
            at = int(far.argmax())
            shown, place = self._row["video_ids"], self._row["recorded"][at]
            key = self._row["candidate_keys"][place]
            video = shown[at] if at < len(shown) else f"the video with key {key}"
            others = f", and of {int(far.sum()) - 1} others" if far.sum() > 1 else ""
            texts = f"{wanted[at]:.8g}", f"{made[at]:.8g}"
            self.first = self._difference(f"{what} of {video}{others}", *texts)

    def _difference(self, value: str, recorded: str, made: str) -> Difference:
        return Difference(self._row["request_id"], self._stage, value, recorded, made)


@dataclass(frozen=True)
class Changed:
    """What a new release would have answered instead of a slate."""

    overlap: float
    """Share of the slate's videos that it answers too, 0 to 1."""
    shift: float
    """Mean score of its page less that of the slate."""


def changed(row: Row, release: Replayer) -> Changed | None:
    """Return how a new release's page differs from a slate; None if one of them has none.

    Boosts, pins and caps of the site's rules aren't applied to the new page.
    """
    if not row["recorded"] or not row["video_ids"]:
        return None
    try:
        found = release.retrieve(row)
    except (UnknownSeedError, BadFilterError):
        return None
    page = release.rank(row, found, rules=False)
    videos = {video_key(each) for each in row["video_ids"]}
    overlap = len(videos & {*page.keys.tolist()}) / len(videos)
    shift = float(page.scores.mean() - np.mean(row["item_scores"])) if len(page.scores) else 0.0
    return Changed(overlap, shift)
