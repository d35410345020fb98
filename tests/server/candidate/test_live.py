"""What the log adds to candidates: new and trending videos, and removals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.builders.catalogue import followed, removed, upserted
from tests.builders.cells import release_in_cells
from tests.builders.releases import build_release
from tests.builders.retrieving import retrieve, with_quotas
from tests.builders.viewers import viewer_of_rows
from vireo.server.candidate.service import encode
from vireo.server.features.keys import video_key, video_keys
from vireo.server.features.looked_up import looked_up
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.live.live import Live
from vireo.server.recommend.retrieval.pipeline import (
    CandidatePipeline,
    CandidateQuery,
    RetrievedCandidates,
    UnknownSeedError,
)
from vireo.server.recommend.retrieval.query import Retrieval
from vireo.server.recommend.retrieval.release import CandidateRelease, VideosByCreator
from vireo.server.recommend.retrieval.sources import followed as followed_source
from vireo.server.releases.manifest import Quotas
from vireo.server.signals import COLD_SHARE, FOLLOWED, NEW, SCORES, SOURCES, TRENDING

VIDEOS = 43
"""Rows of live videos begin at the next multiple of 8."""


def proposed(found: RetrievedCandidates, bit: int) -> list[int]:
    keys: list[int] = found.keys[found.source_masks & bit > 0].tolist()
    return keys


@pytest.fixture(scope="module")
def release_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_release(tmp_path_factory.mktemp("release"), videos=VIDEOS)


@pytest.fixture(scope="module")
def release(release_folder: Path) -> CandidateRelease:
    return CandidateRelease.load(release_folder)


@pytest.fixture(scope="module")
def news() -> Live:
    kinds = ("cat", "dog", "fish")
    return followed(
        *(upserted(1 + each, f"new-{each}", tags=[kinds[each % 3]]) for each in range(60))
    )


@pytest.mark.parametrize("exact", [True, False])
def test_new_videos_are_found_by_their_exact_scores(
    release_folder: Path, news: Live, exact: bool
) -> None:
    release = CandidateRelease.load(release_folder, live=news)
    release = release if exact else release_in_cells(release, cells=2, probes=2)
    viewer = viewer_of_rows(3, 9)

    found = retrieve(release, viewer, 40)

    new_keys = proposed(found, NEW.bit)
    assert len(new_keys) == 2  # the share of 40
    assert release.live is not None
    table = release.live
    vector = release.viewer_vector(viewer)
    best = np.sort(table.vectors[: table.count] @ vector)[::-1][:2]
    at = found.source_masks & NEW.bit > 0
    assert found.scores["two_tower"][at] == pytest.approx(best, rel=1e-5)
    for score in SCORES[1:]:
        assert (found.scores[score.name][at] == score.neutral).all()
    assert len(found) == 40
    assert (np.diff(found.scores["two_tower"]) <= 0).all()
    answer = encode(found, release, 40)
    assert video_keys(list(answer.ids)).tolist() == list(answer.keys)
    assert [each.proposed for each in answer.sources if each.source == NEW.number] == [2]


def test_watched_excluded_and_hidden_new_videos_are_left_out(
    release_folder: Path, news: Live
) -> None:
    release = CandidateRelease.load(release_folder, live=news)
    viewer = viewer_of_rows(3, 9)
    first, second = proposed(retrieve(release, viewer, 40), NEW.bit)

    hidden_keys = np.array([first, release.keys[5]])
    hidden = replace(viewer, hidden_keys=hidden_keys, hidden_times=np.zeros(2, np.int64))
    watched = replace(viewer, watched_keys=np.append(viewer.watched_keys, second))

    assert not np.isin(hidden_keys, retrieve(release, hidden, 100).keys).any()
    assert second not in retrieve(release, watched, 40).keys
    assert first not in retrieve(release, viewer, 40, excluded_keys=np.array([first])).keys


def test_removed_videos_are_proposed_by_no_source(release_folder: Path) -> None:
    live = followed(
        *(removed(1 + row, f"video-{row}") for row in range(0, VIDEOS, 2)),
        upserted(99, "new", tags=["cat"]),
        removed(100, "new"),
        trending={"": ["video-0", "video-1", "new"]},
    )
    found = retrieve(CandidateRelease.load(release_folder, live=live), viewer_of_rows(3, 4), VIDEOS)
    assert sorted(found.rows.tolist()) == [row for row in range(1, VIDEOS, 2) if row != 3]


def test_trending_videos_come_from_the_own_locale_first(release_folder: Path) -> None:
    lists = {"": ["video-20", "video-21"], "de": ["video-25"], "de-CH": ["video-26"]}
    release = CandidateRelease.load(release_folder, live=followed(trending=lists))
    viewer = viewer_of_rows(3, 9)

    firsts = {"de-CH": 26, "de_ch": 26, "de-AT": 25, "de": 25, "DE": 25, "fr": 20, "": 20}
    for locale, first in firsts.items():
        found = retrieve(release, viewer, 20, locale=locale)
        assert proposed(found, TRENDING.bit) == [video_key(f"video-{first}")]


def test_half_of_what_a_cold_viewer_gets_is_trending(release_folder: Path) -> None:
    lists = {"": [f"video-{row}" for row in range(VIDEOS)]}
    found = retrieve(
        CandidateRelease.load(release_folder, live=followed(trending=lists)), ViewerFeatures(), 20
    )
    assert len(proposed(found, TRENDING.bit)) == COLD_SHARE * 20


@pytest.mark.parametrize("exact", [True, False])
def test_the_best_videos_of_followed_creators_are_found(release_folder: Path, exact: bool) -> None:
    news = [
        upserted(1 + each, f"new-{each}", tags=[kind], creator="creator-2")
        for each, kind in enumerate(("cat", "dog", "fish"))
    ]
    live = followed(
        *news,
        upserted(9, "other", tags=["cat"], creator="creator-4"),
        removed(10, "video-2"),
    )
    release = CandidateRelease.load(release_folder, live=live)
    release = release if exact else release_in_cells(release, cells=2, probes=2)
    creators = video_keys(["creator-2", "unknown", "creator-1", "creator-2"])
    viewer = replace(viewer_of_rows(3, 7), followed_keys=creators)

    found = retrieve(release, viewer, 40)
    own = [f"video-{row}" for row in range(VIDEOS) if row % 5 in (1, 2) and row not in (2, 7)]
    keys = video_keys([*own, *(f"new-{each}" for each in range(3))])
    vectors = looked_up(release.every_vector, release.find(keys))
    best = keys[np.argsort(-(vectors @ release.viewer_vector(viewer)))]
    assert {*proposed(found, FOLLOWED.bit)} == {*best[:2].tolist()}
    everyone = followed_source(Retrieval.of(release, CandidateQuery(viewer, 40)), 100)
    assert release.keys_of(everyone).tolist() == best.tolist()

    plain = retrieve(release, viewer_of_rows(3, 7), 40)
    assert not proposed(plain, FOLLOWED.bit)
    assert not proposed(retrieve(CandidateRelease.load(release_folder), viewer, 40), FOLLOWED.bit)


def test_of_many_followed_videos_those_of_the_first_creators_are_compared() -> None:
    index = VideosByCreator(np.array([5, -1, 7, 5, 7, 9, 5], np.int64))
    creators = np.array([7, 8, 5, 7, 9], np.int64)
    assert index.rows_of(creators, 100).tolist() == [2, 4, 0, 3, 6, 5]
    assert index.rows_of(creators, 4).tolist() == [2, 4, 0, 3]
    assert index.rows_of(creators[:1], 1).tolist() == [2]
    assert index.rows_of(creators[:0], 4).tolist() == []


def test_new_videos_take_no_place_of_a_source_with_a_quota(release_folder: Path) -> None:
    upserts = [upserted(1 + each, f"new-{each}", tags=["cat"]) for each in range(30)]
    viewer = viewer_of_rows(3, 9)
    plain = retrieve(CandidateRelease.load(release_folder, live=followed()), viewer, 20)
    worst = plain.keys[-1]
    [last] = [name for name in map(str, range(VIDEOS)) if video_key(f"video-{name}") == worst]
    live = followed(*upserts, trending={"": [f"video-{last}"]})
    found = retrieve(CandidateRelease.load(release_folder, live=live), viewer, 20)
    assert len(proposed(found, NEW.bit)) == 1
    assert proposed(found, TRENDING.bit) == [worst]
    assert len(found) == 20
    for source in SOURCES[1:]:
        assert proposed(found, source.bit) == proposed(plain, source.bit), source.name


def test_where_quotas_leave_no_place_the_last_source_gives_it(release_folder: Path) -> None:
    live = followed(upserted(1, "new", tags=["cat"]), trending={"": ["video-30"]})
    release = CandidateRelease.load(release_folder, live=live)
    shares = {"co_watch": 0.3, "ease": 0.15, "popular": 0.45, "fresh": 0.1}
    query = CandidateQuery(viewer_of_rows(20), 20)
    found = CandidatePipeline(with_quotas(release, Quotas(shares))).retrieve(query)
    counts = {
        source.name: len(proposed(found, source.bit)) for source in (*SOURCES[1:], TRENDING, NEW)
    }
    wanted = {"co_watch": 6, "ease": 3, "popular": 9 - 2, "fresh": 2, "trending": 1, "new": 1}
    assert counts == wanted


def test_candidates_can_follow_a_video_that_is_new(release_folder: Path, news: Live) -> None:
    release = CandidateRelease.load(release_folder, live=news)
    seed = video_key("new-4")
    found = retrieve(release, viewer_of_rows(3, 9), 20, seed_key=seed)
    assert len(found) == 20
    assert seed not in found.keys
    with pytest.raises(UnknownSeedError):
        retrieve(release, viewer_of_rows(3, 9), 20, seed_key=5)


def test_a_changed_video_stays_where_the_release_has_it(release_folder: Path) -> None:
    live = followed(upserted(1, "video-5", tags=["cat"]))
    release = CandidateRelease.load(release_folder, live=live)
    found = retrieve(release, viewer_of_rows(3), VIDEOS)
    assert found.keys.tolist().count(video_key("video-5")) == 1
    assert not proposed(found, NEW.bit)


def test_nothing_new_changes_no_candidate(release_folder: Path, release: CandidateRelease) -> None:
    for viewer in (viewer_of_rows(3, 9), ViewerFeatures()):
        without, beside = (
            retrieve(each, viewer, 30)
            for each in (release, CandidateRelease.load(release_folder, live=followed()))
        )
        assert without.keys.tolist() == beside.keys.tolist()
        assert without.source_masks.tolist() == beside.source_masks.tolist()
