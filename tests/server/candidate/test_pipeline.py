from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders.releases import build_release, poison_model
from tests.builders.retrieving import retrieve, with_quotas
from tests.builders.viewers import viewer_of_rows
from vireo.server.features.keys import video_key
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.recommend.retrieval import sources
from vireo.server.recommend.retrieval.index import VideoIndex
from vireo.server.recommend.retrieval.pipeline import (
    CandidatePipeline,
    CandidateQuery,
    RetrievedCandidates,
    within,
)
from vireo.server.recommend.retrieval.query import Retrieval
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases import layout
from vireo.server.releases.manifest import IndexDescription, Quotas
from vireo.server.signals import SOURCES

VIDEOS = 40
TWO_TOWER, CO_WATCH, EASE, POPULAR, FRESH = (source.bit for source in SOURCES[:5])
NONE = Quotas({source.name: 0 for source in SOURCES if source.quota is not None})


def mask_of(found: RetrievedCandidates, row: int) -> int:
    return int(found.source_masks[found.rows == row][0])


def test_candidates_come_best_first_by_exact_two_tower_score(release: CandidateRelease) -> None:
    viewer = viewer_of_rows(3, 9)
    found = retrieve(release, viewer, 12)
    assert len(found.keys) == 12
    exact = release.vectors[found.rows] @ release.viewer_vector(viewer)
    np.testing.assert_allclose(found.scores["two_tower"], exact, rtol=1e-6)
    assert (np.diff(found.scores["two_tower"]) <= 0).all()
    assert (release.keys[found.rows] == found.keys).all()


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


def test_each_source_is_sure_of_its_quota(release: CandidateRelease) -> None:
    viewer = viewer_of_rows(10)
    quotas = Quotas({**NONE.root, "co_watch": 0.3, "ease": 0.2, "popular": 0.3, "fresh": 0.1})
    found = CandidatePipeline(with_quotas(release, quotas)).retrieve(CandidateQuery(viewer, 10))
    # In the tiny release rows 11, 12, 13 follow row 10 most, EASE expects rows 9 and 8 most
    # after it, 0, 1, 2 are most popular, and the last 8 are fresh.
    co_watched = found.rows[(found.source_masks & CO_WATCH) > 0]
    popular = found.rows[(found.source_masks & POPULAR) > 0]
    assert sorted(co_watched.tolist()) == [11, 12, 13]
    assert sorted(popular.tolist()) == [0, 1, 2]
    assert sorted(found.rows[(found.source_masks & EASE) > 0].tolist()) == [8, 9]
    [fresh] = found.rows[(found.source_masks & FRESH) > 0]
    nearness = release.vectors @ release.viewer_vector(viewer)
    assert fresh == max(range(32, 40), key=lambda row: nearness[row])


def test_up_next_follows_the_seed_and_never_returns_it(release: CandidateRelease) -> None:
    seed = video_key("video-20")
    found = retrieve(release, viewer_of_rows(1, 2), VIDEOS, seed_key=seed)
    scores = dict(zip(found.rows.tolist(), found.scores["co_watch"].tolist(), strict=True))
    assert 20 not in scores
    assert [scores[row] for row in (21, 22)] == pytest.approx([1.0, 0.5])
    assert scores[3] == 0, "co-watch follows the seed alone, not the history before it"
    home = retrieve(release, viewer_of_rows(1, 2, 20), VIDEOS)
    np.testing.assert_array_equal(found.scores["two_tower"], home.scores["two_tower"])


def _approximate(vectors: np.ndarray) -> VideoIndex:
    """The index of a large catalogue. With other vectors than the release has it raises."""
    size = vectors.shape[1]
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(size), size, 1, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    return VideoIndex(index, IndexDescription(kind="ivf_int8", probes=1))


def test_a_large_catalogue_has_the_candidates_of_a_small_one(release: CandidateRelease) -> None:
    large = replace(release, index=_approximate(release.vectors))
    assert release.index.exact
    assert not large.index.exact
    query = CandidateQuery(viewer_of_rows(10, 3), 12, release.keys[[0, 5]])
    ours, theirs = (CandidatePipeline(each).retrieve(query) for each in (release, large))
    np.testing.assert_array_equal(ours.keys, theirs.keys)
    np.testing.assert_array_equal(ours.source_masks, theirs.source_masks)
    np.testing.assert_allclose(ours.scores["two_tower"], theirs.scores["two_tower"], rtol=1e-6)


def test_failed_source_is_left_out_and_reported(release: CandidateRelease) -> None:
    broken = replace(release, index=_approximate(np.zeros((VIDEOS, 3), np.float32)))
    found = CandidatePipeline(broken).retrieve(CandidateQuery(viewer_of_rows(10), 30))
    assert len(found.keys) == 30, "popular fills what two-tower would have given"
    assert not (found.source_masks & TWO_TOWER).any()
    assert found.failures.keys() == {"two_tower"}
    assert found.failures["two_tower"].startswith("AssertionError")
    assert (np.diff(found.scores["two_tower"]) <= 0).all(), (
        "the viewer tower works: scores stay exact"
    )


def test_if_every_source_failed_the_last_failure_is_raised(
    release: CandidateRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in sources.PROPOSE:
        monkeypatch.setitem(sources.PROPOSE, name, Mock(side_effect=RuntimeError(name)))
    with pytest.raises(RuntimeError, match="two_tower"):
        CandidatePipeline(release).retrieve(CandidateQuery(viewer_of_rows(10), 30))


def test_a_score_that_failed_is_reported_by_its_source(release: CandidateRelease) -> None:
    index = _approximate(release.vectors)
    broken = replace(release, index=index, vectors=np.empty((0, 0), np.float32))
    found = CandidatePipeline(broken).retrieve(CandidateQuery(viewer_of_rows(10), 30))
    assert len(found.keys) == 30
    assert not found.scores["two_tower"].any()
    assert found.failures.keys() == {"two_tower"}, "its index works, its score doesn't"
    assert (found.source_masks & TWO_TOWER).any()


def test_failed_viewer_tower_leaves_the_quotas_of_the_others(tmp_path: Path) -> None:
    folder = build_release(tmp_path)
    poison_model(folder, layout.VIEWER_TOWER, "bias")
    release = CandidateRelease.load(folder)
    quotas = Quotas({**NONE.root, "co_watch": 0.5, "ease": 0.25, "popular": 0.25})
    found = CandidatePipeline(with_quotas(release, quotas)).retrieve(
        CandidateQuery(viewer_of_rows(10), 4)
    )
    assert found.rows.tolist() == [11, 12, 9, 0]
    assert not found.scores["two_tower"].any()
    assert "isn't finite" in found.failures["two_tower"]


def test_a_mask_beyond_the_quotas_also_names_every_source(release: CandidateRelease) -> None:
    broken = replace(release, index=_approximate(np.zeros((VIDEOS, 3), np.float32)))
    quotas = Quotas({**NONE.root, "co_watch": 0.2, "popular": 0.2})
    found = CandidatePipeline(with_quotas(broken, quotas)).retrieve(
        CandidateQuery(viewer_of_rows(0), 5)
    )
    assert len(found.rows) == 5
    # Row 1 is the quota of both; 2 and 3 are what they propose next.
    assert [mask_of(found, row) for row in (1, 2, 3)] == [CO_WATCH | POPULAR] * 3


def test_quotas_beyond_one_are_refused() -> None:
    with pytest.raises(ValueError, match="together must be at most 1"):
        Quotas({"co_watch": 0.5, "popular": 0.5})


def test_the_manifest_says_the_quotas(tmp_path: Path) -> None:
    quotas = Quotas({**NONE.root, "ease": 0.5})
    release = CandidateRelease.load(build_release(tmp_path, quotas=quotas))
    viewer = viewer_of_rows(10)
    found = CandidatePipeline(release).retrieve(CandidateQuery(viewer, 6))
    assert {7, 8, 9} <= set(found.rows.tolist())
    assert not (found.source_masks & (CO_WATCH | POPULAR | FRESH)).any()


def ease_scores(
    release: CandidateRelease, viewer: ViewerFeatures, seed_key: int | None = None
) -> dict[int, float]:
    """Return the EASE score of each candidate, by row."""
    query = CandidateQuery(viewer, VIDEOS, seed_key=seed_key)
    found = CandidatePipeline(with_quotas(release, NONE)).retrieve(query)
    return dict(zip(found.rows.tolist(), found.scores["ease"].tolist(), strict=True))


def test_ease_scores_candidates_of_all_sources(release: CandidateRelease) -> None:
    scores = ease_scores(release, viewer_of_rows(30, watched=[10]))
    assert [scores[row] for row in (9, 8, 7, 6, 5)] == pytest.approx([0.8, 0.4, 0.2, -0.1, 0])


def test_ease_counts_each_watch_once_and_the_last_few_more(release: CandidateRelease) -> None:
    # The last watch counts 3 more, and the one 3 watches before it half of that.
    last = ease_scores(release, viewer_of_rows(10))
    assert [last[row] for row in (9, 8)] == pytest.approx([4 * 0.8, 4 * 0.4])
    assert ease_scores(release, viewer_of_rows(10, 30, 31, 32))[9] == pytest.approx(2.5 * 0.8)
    assert ease_scores(release, viewer_of_rows(10, 10, watched=[10]))[9] == pytest.approx(4 * 0.8)
    unknown = replace(viewer_of_rows(10), watched_keys=np.empty(0, np.int64))
    assert ease_scores(release, unknown)[9] == pytest.approx(4 * 0.8)


def test_ease_follows_the_seed_alone(release: CandidateRelease) -> None:
    viewer = viewer_of_rows(30, watched=[10])
    assert ease_scores(release, viewer, video_key("video-30"))[9] == 0


def test_ease_proposes_no_video_with_a_negative_score(release: CandidateRelease) -> None:
    quotas = Quotas({**NONE.root, "ease": 1})
    found = CandidatePipeline(with_quotas(release, quotas)).retrieve(
        CandidateQuery(viewer_of_rows(10), 20)
    )
    assert sorted(found.rows[(found.source_masks & EASE) > 0].tolist()) == [7, 8, 9]


@settings(max_examples=60, deadline=None)
@given(
    history=st.lists(st.integers(0, VIDEOS - 1), max_size=30, unique=True),
    excluded=st.lists(st.integers(0, VIDEOS - 1), max_size=30),
    count=st.integers(1, 2 * VIDEOS),
    shares=st.tuples(*[st.floats(0, 1 / len(NONE.root))] * len(NONE.root)),
)
def test_each_source_in_turn_gives_its_quota_until_there_are_as_many_as_the_catalogue_allows(
    release: CandidateRelease,
    history: list[int],
    excluded: list[int],
    count: int,
    shares: tuple[float, ...],
) -> None:
    quotas = Quotas(dict(zip(NONE.root, shares, strict=True)))
    query = CandidateQuery(viewer_of_rows(*history), count, release.keys[excluded])
    asked = Retrieval.of(release, query)
    expected: dict[int, int] = {}
    for stage in within(quotas):
        everything = replace(stage, share=None).propose(asked)
        for row in everything.rows[: stage.limit(count)].tolist():
            if row in expected or len(expected) < count:
                expected[row] = expected.get(row, 0) | stage.bit
    found = CandidatePipeline(with_quotas(release, quotas)).retrieve(query)
    assert dict(zip(found.rows.tolist(), found.source_masks.tolist(), strict=True)) == expected
    free = set(range(VIDEOS)) - set(history) - set(excluded)
    assert len(found.rows) == len(expected) == min(count, len(free))
    assert set(expected) <= free
