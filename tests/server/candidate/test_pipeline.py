from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vireo.v1 import viewer_pb2

from server.candidate.pipeline import (
    CandidatePipeline,
    CandidateQuery,
    Quotas,
    RetrievedCandidates,
    UnknownSeedError,
)
from server.candidate.release import CandidateRelease
from server.features.keys import video_key
from server.features.viewer import ViewerFeatures
from server.releases import layout
from tests.builders.releases import build_release, poison_model
from tests.builders.viewers import viewer_of_rows

VIDEOS = 40
TWO_TOWER, CO_WATCH, POPULAR = (1 << source for source in (1, 2, 3))


def retrieve(
    release: CandidateRelease, viewer: ViewerFeatures, count: int, **more: Any
) -> RetrievedCandidates:
    pipeline = CandidatePipeline(release, fail_open=False)
    return pipeline.retrieve(CandidateQuery(viewer, count, **more))


def mask_of(found: RetrievedCandidates, row: int) -> int:
    return int(found.source_masks[found.rows == row][0])


def test_candidates_come_best_first_by_exact_two_tower_score(release: CandidateRelease) -> None:
    viewer = viewer_of_rows(3, 9)
    found = retrieve(release, viewer, 12)
    assert len(found.keys) == 12
    exact = release.vectors[found.rows] @ release.viewer_vector(viewer)
    np.testing.assert_allclose(found.two_tower, exact, rtol=1e-6)
    assert (np.diff(found.two_tower) <= 0).all()
    assert (release.keys[found.rows] == found.keys).all()


def test_watched_and_excluded_videos_are_never_returned(release: CandidateRelease) -> None:
    viewer = viewer_of_rows(3, 9, watched=range(20, 30))
    excluded = release.keys[[0, 1, 5]]
    found = retrieve(release, viewer, VIDEOS, excluded_keys=excluded)
    assert set(found.rows.tolist()) == set(range(VIDEOS)) - {3, 9, 0, 1, 5, *range(20, 30)}


@settings(max_examples=60, deadline=None)
@given(
    history=st.lists(st.integers(0, VIDEOS - 1), max_size=30, unique=True),
    excluded=st.lists(st.integers(0, VIDEOS - 1), max_size=30),
    count=st.integers(1, 2 * VIDEOS),
    co_watch=st.floats(0, 0.5),
    popular=st.floats(0, 0.5),
)
def test_as_many_candidates_as_the_catalogue_allows(
    release: CandidateRelease,
    history: list[int],
    excluded: list[int],
    count: int,
    co_watch: float,
    popular: float,
) -> None:
    pipeline = CandidatePipeline(release, Quotas(co_watch=co_watch, popular=popular))
    query = CandidateQuery(viewer_of_rows(*history), count, release.keys[excluded])
    found = pipeline.retrieve(query)
    free = set(range(VIDEOS)) - set(history) - set(excluded)
    assert len(found.rows) == min(count, len(free))
    assert set(found.rows.tolist()) <= free
    assert len(set(found.rows.tolist())) == len(found.rows)
    assert (found.source_masks > 0).all()


def test_history_that_the_release_does_not_know_is_ignored(release: CandidateRelease) -> None:
    known = viewer_of_rows(4)
    stranger = np.array([123456789], np.int64)
    mixed = replace(
        known,
        history_keys=np.concatenate([stranger, known.history_keys]),
        history_times=np.zeros(2, np.int64),
        watched_keys=np.concatenate([stranger, known.watched_keys]),
    )
    assert retrieve(release, mixed, 10).keys.tolist() == retrieve(release, known, 10).keys.tolist()


def test_unknown_viewer_gets_candidates_without_co_watch(release: CandidateRelease) -> None:
    found = retrieve(release, ViewerFeatures(), 10)
    assert len(found.keys) == 10
    assert not found.co_watch.any()
    assert not (found.source_masks & CO_WATCH).any()


def test_each_source_is_sure_of_its_quota(release: CandidateRelease) -> None:
    viewer = viewer_of_rows(10)
    found = CandidatePipeline(release, Quotas(co_watch=0.3, popular=0.3)).retrieve(
        CandidateQuery(viewer, 10)
    )
    # In the tiny release rows 11, 12, 13 follow row 10 most, and 0, 1, 2 are most popular.
    co_watched = found.rows[(found.source_masks & CO_WATCH) > 0]
    popular = found.rows[(found.source_masks & POPULAR) > 0]
    assert sorted(co_watched.tolist()) == [11, 12, 13]
    assert sorted(popular.tolist()) == [0, 1, 2]


def test_quota_is_not_spent_on_videos_that_are_filtered(release: CandidateRelease) -> None:
    viewer = viewer_of_rows(10, watched=[0, 1, 11])
    found = CandidatePipeline(release, Quotas(co_watch=0.2, popular=0.2)).retrieve(
        CandidateQuery(viewer, 10)
    )
    assert {2, 3, 12, 13} <= set(found.rows.tolist())


def test_mask_names_every_source_that_proposed_a_video(release: CandidateRelease) -> None:
    found = retrieve(release, viewer_of_rows(0), VIDEOS)
    assert mask_of(found, 1) == TWO_TOWER | CO_WATCH | POPULAR
    assert mask_of(found, VIDEOS - 1) == TWO_TOWER


def test_co_watch_score_is_given_whichever_source_proposed(release: CandidateRelease) -> None:
    none = Quotas(co_watch=0, popular=0)
    pipeline = CandidatePipeline(release, none)
    found = pipeline.retrieve(CandidateQuery(viewer_of_rows(10), VIDEOS))
    scores = dict(zip(found.rows.tolist(), found.co_watch.tolist(), strict=True))
    assert scores[11] == pytest.approx(1.0)
    assert scores[12] == pytest.approx(0.5)
    assert scores[9] == 0


def test_up_next_follows_the_seed_and_never_returns_it(release: CandidateRelease) -> None:
    seed = video_key("video-20")
    found = retrieve(release, viewer_of_rows(1, 2), VIDEOS, seed_key=seed)
    scores = dict(zip(found.rows.tolist(), found.co_watch.tolist(), strict=True))
    assert 20 not in scores
    assert scores[21] == pytest.approx(1.0)
    assert scores[3] == 0, "co-watch follows the seed alone, not the history before it"
    home = retrieve(release, viewer_of_rows(1, 2, 20), VIDEOS)
    np.testing.assert_array_equal(found.two_tower, home.two_tower)


def test_unknown_seed_is_an_error_that_names_it(release: CandidateRelease) -> None:
    with pytest.raises(UnknownSeedError, match="seed_key 77 is not in release tiny-1"):
        retrieve(release, viewer_of_rows(1), 5, seed_key=77)


def test_same_query_gives_the_same_answer_on_every_load(release_folder: Path) -> None:
    answers = [
        retrieve(CandidateRelease.load(release_folder), viewer_of_rows(5, 6), 20) for _ in range(2)
    ]
    np.testing.assert_array_equal(answers[0].keys, answers[1].keys)
    np.testing.assert_array_equal(answers[0].source_masks, answers[1].source_masks)


def test_failed_source_is_left_out_and_reported(release: CandidateRelease) -> None:
    broken = replace(release, index=faiss.IndexFlatIP(3))  # asked for 8 dimensions, it raises
    found = CandidatePipeline(broken).retrieve(CandidateQuery(viewer_of_rows(10), 30))
    assert len(found.keys) == 30, "popular fills what two-tower would have given"
    assert not (found.source_masks & TWO_TOWER).any()
    failures = {report.source: report.failure for report in found.reports}
    assert failures.pop(viewer_pb2.SOURCE_TWO_TOWER).startswith("AssertionError")
    assert failures == {viewer_pb2.SOURCE_CO_WATCH: "", viewer_pb2.SOURCE_POPULAR: ""}
    assert (np.diff(found.two_tower) <= 0).all(), "the viewer tower works: scores stay exact"


def test_failed_viewer_tower_leaves_co_watch_before_popular(tmp_path: Path) -> None:
    folder = build_release(tmp_path)
    poison_model(folder, layout.VIEWER_TOWER, "bias")
    release = CandidateRelease.load(folder)
    quotas = Quotas(co_watch=0.5, popular=0.5)
    found = CandidatePipeline(release, quotas).retrieve(CandidateQuery(viewer_of_rows(10), 4))
    assert found.rows.tolist() == [11, 12, 0, 1]
    assert not found.two_tower.any()
    assert "isn't finite" in found.reports[0].failure


def test_approximate_index_that_finds_too_few_is_completed_exactly(
    tmp_path: Path, release: CandidateRelease
) -> None:
    folder = build_release(tmp_path)
    quantizer = faiss.IndexFlatIP(release.vectors.shape[1])
    index = faiss.IndexIVFFlat(quantizer, release.vectors.shape[1], 8, faiss.METRIC_INNER_PRODUCT)
    index.train(np.array(release.vectors))
    index.add(np.array(release.vectors))
    index.nprobe = 1
    faiss.write_index(index, str(folder / layout.VIDEO_INDEX))
    approximate = CandidateRelease.load(folder)
    vector = release.viewer_vector(viewer_of_rows(1))
    assert (index.search(vector[None], VIDEOS)[1] < 0).any(), "the index alone falls short"
    np.testing.assert_array_equal(
        approximate.nearest(vector, VIDEOS), release.nearest(vector, VIDEOS)
    )


def test_popular_videos_of_equal_popularity_come_by_key(tmp_path: Path) -> None:
    folder = build_release(tmp_path)
    np.save(folder / layout.POPULARITY, np.ones(VIDEOS, np.float32))
    release = CandidateRelease.load(folder)
    assert (np.diff(release.keys[release.popular_rows]) > 0).all()


def test_quotas_beyond_one_are_refused() -> None:
    with pytest.raises(ValueError, match="together must be at most 1"):
        Quotas(co_watch=0.7, popular=0.7)
