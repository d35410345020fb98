"""Videos that aren't published yet are no candidates, and become some by the clock alone."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.builders.attributes import DECLARED
from tests.builders.catalogue import followed, upserted
from tests.builders.cells import release_in_cells
from tests.builders.clock import Clock
from tests.builders.retrieving import retrieve
from tests.builders.viewers import viewer_of_rows
from vireo.server.features.keys import video_key
from vireo.server.recommend.filters.declared import PUBLISHED
from vireo.server.recommend.retrieval.explain import explain
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline, CandidateQuery
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases import layout
from vireo.v1 import recommendation_pb2 as pb

VIDEOS = 40
NOON = 4_000_000_000
"""When most are published here: long after now, so that only the clock of a test says so."""


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON - 1.0)


@pytest.fixture
def with_dates(release_folder: Path, tmp_path: Path) -> Callable[[Mapping[int, float]], Path]:
    """Return a release's folder whose rows are published at these times."""
    folder = Path(shutil.copytree(release_folder, tmp_path / "release"))

    def dated(times: Mapping[int, float]) -> Path:
        numbers = np.load(folder / layout.NUMBERS)
        for row, time in times.items():
            numbers[row, DECLARED.numbers.index(PUBLISHED)] = time
        np.save(folder / layout.NUMBERS, numbers)
        return folder

    return dated


def rows(release: CandidateRelease, **more: Any) -> set[int]:
    """Return the rows of the candidates for a query that allows all."""
    return {*retrieve(release, viewer_of_rows(3), VIDEOS + 20, **more).rows.tolist()}


def keys(release: CandidateRelease, **more: Any) -> set[int]:
    """Return the keys of those."""
    return {*release.keys_of(np.array([*rows(release, **more)])).tolist()}


def test_no_source_proposes_a_video_before_its_own_time(
    with_dates: Callable[[Mapping[int, float]], Path], clock: Clock
) -> None:
    # The most popular, one that the history leads to, and a fresh one.
    soon = {0: NOON, 4: NOON + 20, 39: NOON + 10}
    folder = with_dates({**soon, 5: NOON - 2.0, 6: math.nan})
    live = followed(trending={"": ["video-0", "video-39"]})
    for followed_log in (None, live):
        clock.now = NOON - 1
        release = CandidateRelease.load(folder, live=followed_log, clock=clock)
        pinned = np.array([video_key("video-39")])
        for clock.now in (NOON - 1, NOON, NOON + 10, NOON + 19.9, NOON + 20):
            early = {row for row, time in soon.items() if time > clock.now}
            assert rows(release, pinned_keys=pinned) == set(range(VIDEOS)) - {3} - early


def test_a_search_in_cells_finds_none_before_its_time(
    with_dates: Callable[[Mapping[int, float]], Path], clock: Clock
) -> None:
    folder = with_dates(dict.fromkeys(range(0, VIDEOS, 2), NOON))
    release = release_in_cells(CandidateRelease.load(folder, clock=clock), cells=4, probes=4)
    assert all(row % 2 for row in rows(release))
    clock.now = NOON
    assert not all(row % 2 for row in rows(release))


def test_an_upserted_video_comes_at_its_time(release_folder: Path, clock: Clock) -> None:
    live = followed(
        upserted(1, "soon", tags=["cat"], published=Timestamp(seconds=NOON, nanos=500_000_000)),
        upserted(2, "out", tags=["cat"], published=Timestamp(seconds=NOON - 5)),
        upserted(3, "undated", tags=["cat"]),
        trending={"": ["soon"]},
    )
    release = CandidateRelease.load(release_folder, live=live, clock=clock)
    soon, *others = (video_key(name) for name in ("soon", "out", "undated"))
    pinned = np.array([soon, *others])
    for clock.now in (NOON - 1, NOON + 0.4):
        assert soon not in keys(release)
        assert keys(release, pinned_keys=pinned) & {soon, *others} == {*others}
    clock.now = NOON + 0.5
    assert {soon, *others} <= keys(release, pinned_keys=pinned)


def test_the_last_change_of_a_release_s_video_says_when_it_is_published(
    with_dates: Callable[[Mapping[int, float]], Path], clock: Clock
) -> None:
    live = followed(
        upserted(1, "video-7", tags=["dog"], published=Timestamp(seconds=NOON)),
        upserted(2, "video-8", tags=["fish"], published=Timestamp(seconds=NOON - 60)),
        upserted(3, "video-9", tags=["cat"]),
    )
    folder = with_dates({8: NOON, 9: NOON, 10: NOON})
    release = CandidateRelease.load(folder, live=live, clock=clock)
    assert {7, 8, 9, 10} - rows(release) == {7, 10}
    assert release.live is not None

    live.overlay.take([upserted(4, "video-9", published=Timestamp(seconds=NOON + 9))])
    live.overlay.take([upserted(5, "video-7", published=Timestamp(seconds=NOON - 9))])
    release.live.update(live.overlay.newly_touched())
    while release.live.place_some():
        pass
    assert {7, 8, 9, 10} - rows(release) == {9, 10}
    clock.now = NOON + 9
    assert {7, 8, 9, 10} <= rows(release)


def test_an_unpublished_video_is_told_to_be_so(
    with_dates: Callable[[Mapping[int, float]], Path], clock: Clock
) -> None:
    live = followed(upserted(1, "soon", tags=["cat"], published=Timestamp(seconds=NOON)))
    release = CandidateRelease.load(with_dates({8: NOON}), live=live, clock=clock)
    pipeline = CandidatePipeline(release, fail_open=False)
    query = CandidateQuery(viewer_of_rows(3), 20)
    for name in ("video-8", "soon"):
        told = explain(pipeline, query, pipeline.retrieve(query), video_key(name))
        assert (told.lost_at, told.reason) == (pb.LOST_AT_BLOCKED, "It isn't published yet.")
    clock.now = NOON
    for name in ("video-8", "soon"):
        told = explain(pipeline, query, pipeline.retrieve(query), video_key(name))
        assert told.reason != "It isn't published yet."
