"""Lists of what archived slates showed: features of the record, labels of what came of it."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from tests.builders.catalogue import followed, upserted
from tests.builders.releases import build_release
from tests.builders.replaying import Serving
from tests.builders.shown import event
from vireo.server.consumer.archived_rows import EVENT_ROWS, SLATE_ROWS, request_of
from vireo.server.features.activity import Bounce
from vireo.server.features.keys import video_key
from vireo.server.features.model_inputs import RETRIEVAL_FEATURES, VIDEO_FEATURES
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases import layout
from vireo.server.signals import OUTCOMES
from vireo.training.ranking import shown_lists
from vireo.training.ranking.shown_lists import ShownLog, read_log
from vireo.v1.candidate_pb2 import RetrieveCandidatesRequest
from vireo.v1.viewer_pb2 import ViewerFeatures

OUTCOME = {task.name: place for place, task in enumerate(OUTCOMES)}
SLATES = 12


@dataclass(frozen=True)
class Site:
    """An archive of some slates of a release."""

    release: Path
    rows: list[dict[str, Any]]
    folder: Path

    def log(self, *events: dict[str, Any], limit: int = 100) -> ShownLog:
        """What training reads of the slates and of some events."""
        files = self.folder / "events.parquet"
        pq.write_table(pa.Table.from_pylist(list(events), EVENT_ROWS.schema), files)
        slates = [self.folder / "slates.parquet"]
        return read_log(slates, [files], Bounce(fraction=0.05), limit)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    release = build_release(folder / "release")
    serving = Serving(release, followed(upserted(1, "new-0", title="New", tags=["dog"])))
    draw, rows = random.Random(2), []
    for number in range(SLATES):
        request = RetrieveCandidatesRequest(count=30, page_size=6)
        watched = [video_key(f"video-{row}") for row in draw.sample(range(40), 4)]
        request.viewer.history_keys.extend(watched)
        request.viewer.history_times.extend(range(100, 104))
        request.viewer.watched_keys.extend(watched)
        request.viewer.watch_count = 4
        request.viewer.asked_at = 1_700_000_000 + number
        rows.append(serving.row(request, f"r-{number}", viewer_id=f"viewer-{number}"))
    table = pa.Table.from_pylist(rows, SLATE_ROWS.schema)
    pq.write_table(table, folder / "slates.parquet")
    return Site(release, rows, folder)


def seen(row: dict[str, Any], kind: str, place: int, **changes: Any) -> dict[str, Any]:
    """An event about a video of a slate, a minute later."""
    at = row["answered_at"] + pd.Timedelta(seconds=60)
    made = event(kind, row["viewer_id"], row["video_ids"][place], request=row["request_id"])
    return {**made, "at": at, "received_at": at, **changes}


def test_features_are_those_that_were_ranked(site: Site) -> None:
    log = site.log(*(seen(row, "impression", place) for row in site.rows for place in range(6)))
    table = np.load(site.release / layout.VIDEO_FEATURE_TABLE)
    keys = np.load(site.release / layout.VIDEO_KEYS).tolist()
    numbers = {name: number for number, name in enumerate(log.viewer_ids)}
    compared = 0
    for row in site.rows:
        number = numbers[row["viewer_id"]]
        assert log.viewers[number].history_keys.tolist() == [*request_of(row).viewer.history_keys]
        assert log.viewers[number].asked_at == row["asked_at"]
        for place, name in enumerate(row["video_ids"]):
            own = (log.videos["slate"] == number) & (log.videos["key"] == video_key(name))
            [video] = log.videos[own]
            assert video["position"] == place
            if name != "new-0":
                compared += 1
                assert np.array_equal(video["features"], table[keys.index(video_key(name))])
            for score in ("two_tower", "co_watch", "ease"):
                recorded = np.float32(row[f"retrieval_{score}"][place])
                assert video["retrieval"][RETRIEVAL_FEATURES.index(score)] == recorded
    assert compared > 5 * SLATES
    assert video_key("new-0") in log.videos["key"], "the log's videos have features too"
    assert not log.left_out


def test_labels_are_what_came_of_what_was_seen(site: Site) -> None:
    row = next(each for each in site.rows if "new-0" not in each["video_ids"][:5])
    impressions = [seen(row, "impression", place) for place in range(5)]
    log = site.log(
        *impressions,
        seen(row, "play", 0, watched_fraction=0.97),
        seen(row, "play", 1, watched_fraction=0.01),
        seen(row, "play", 2, watched_fraction=0.3),
        seen(row, "hide", 3),
    )
    assert log.viewer_ids == [row["viewer_id"]]
    videos = log.videos[:5]
    assert videos["played"].tolist() == [1, 0, 1, 0, 0]
    assert np.isnan(log.videos["played"][5:]).all()
    liked, finished, hidden = (
        videos["outcomes"][:, OUTCOME[name]] for name in ("like", "finish", "hide")
    )
    assert (liked[0], liked[2]) == (1, 0)
    assert (finished[0], finished[2]) == (1, 0)
    assert np.isnan(liked[[1, 3, 4]]).all()
    assert (hidden[0], hidden[3]) == (0, 1)
    assert np.isnan(hidden[4])


def test_slates_whose_record_has_no_features_are_counted(site: Site, tmp_path: Path) -> None:
    of_another_build, unknown = [0.5] * (6 * 5), [float("nan")] * (6 * len(VIDEO_FEATURES))
    values = [of_another_build, unknown, [], None]
    rows = [{**row, "video_features": values[at % 4]} for at, row in enumerate(site.rows)]
    old = Site(site.release, rows, tmp_path)
    pq.write_table(pa.Table.from_pylist(rows, SLATE_ROWS.schema), tmp_path / "slates.parquet")
    log = old.log(*(seen(row, "impression", 0) for row in rows))
    assert not len(log.videos)
    assert log.left_out == {shown_lists._NOT_RANKED: sum(len(row["video_ids"]) for row in rows)}


def test_fatigue_is_fitted_to_impressions_as_ranking_counted_them(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    for row in site.rows:
        viewer = ViewerFeatures.FromString(row["viewer_features"])
        viewer.shown_keys.append(video_key(row["video_ids"][0]))
        viewer.shown_times.append(row["asked_at"])
        rows.append({**row, "viewer_features": viewer.SerializeToString()})
    pq.write_table(pa.Table.from_pylist(rows, SLATE_ROWS.schema), tmp_path / "slates.parquet")
    given = list[Any]()

    def fitted(*each: Any) -> float:
        given.append(each)
        return 0.5

    monkeypatch.setattr(shown_lists, "fitted_strength", fitted)
    events = [seen(row, "impression", 0) for row in rows]
    log = Site(site.release, rows, tmp_path).log(*events)
    [(watch, position, before, played)] = given
    assert log.fatigue == 0.5
    assert before.tolist() == [1, 0, 0, 0, 0, 0] * SLATES
    assert position.tolist() == [*range(1, 7)] * SLATES
    assert np.isnan(played.reshape(-1, 6)).tolist() == [[False, *[True] * 5]] * SLATES
    ranked = {row["viewer_id"]: row["task_watch"][:6] for row in rows}
    assert watch.tolist() == [each for name in log.viewer_ids for each in ranked[name]]


def test_of_too_many_slates_a_sample_is_drawn_always_the_same(site: Site) -> None:
    events = [seen(row, "impression", 0) for row in site.rows]
    some = site.log(*events, limit=5)
    assert len(some.viewer_ids) == 5
    assert site.log(*events, limit=5).fingerprint == some.fingerprint
    assert site.log(*events).fingerprint != some.fingerprint


def lists(site: Site, log: ShownLog, watches: pd.DataFrame | None = None) -> Any:
    """The lists of a log, and what is said of them."""
    said = io.StringIO()
    none = pd.DataFrame({"viewer_id": [], "video_id": [], "part": []})
    made = shown_lists.shown_lists(
        log,
        none if watches is None else watches,
        CandidateRelease.load(site.release),
        0.25,
        Console(file=said, width=400),
    )
    return made, said.getvalue()


def test_too_few_slates_with_a_play_are_said_and_left_out(site: Site) -> None:
    log = site.log(*(seen(row, "play", 0) for row in site.rows))
    made, said = lists(site, log)
    assert made is None
    assert "fewer than 300: the ranker is trained without them" in said


def test_an_empty_archive_has_too_few(site: Site) -> None:
    made, said = lists(site, read_log([], [], Bounce(), 100))
    assert made is None
    assert "0 slates of the log" in said


def test_a_list_is_a_slate_without_those_that_led_to_a_held_out_watch(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown_lists, "MIN_PLAYED_SLATES", 1)
    rows = [row for row in site.rows if row["video_ids"][0] != "new-0"]
    log = site.log(*(seen(row, "play", 0) for row in rows))
    made, _ = lists(site, log)
    assert len(made.rows) == len(log.viewer_ids)
    assert (np.nansum(made.played, 1) == 1).sum() == len(rows)
    assert made.viewers.held_out.any()
    assert not made.viewers.held_out.all()
    assert (made.rows[np.isnan(made.played)] == -1).all()

    first = rows[0]
    watches = pd.DataFrame(
        {"viewer_id": [first["viewer_id"]], "video_id": [first["video_ids"][0]], "part": ["test"]}
    )
    fewer, said = lists(site, log, watches)
    assert len(fewer.rows) == len(made.rows) - 1
    assert "of slates that led to a held-out watch" in said
