"""What a candidate pod tells of one video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders.catalogue import followed, removed, upserted
from tests.builders.cells import release_in_cells
from tests.builders.filters import condition, expression
from tests.builders.releases import build_release, poison_model, video_ids
from tests.builders.rpc import serving
from tests.builders.viewers import viewer_of_rows
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.features.keys import video_key
from vireo.server.recommend.retrieval import allowed, index
from vireo.server.recommend.retrieval.explain import explain
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline, CandidateQuery
from vireo.server.recommend.retrieval.query import Retrieval
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.recommend.retrieval.sources import two_tower
from vireo.server.releases import layout
from vireo.v1 import candidate_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.candidate_pb2_grpc import CandidateServiceStub

VIDEOS = 40


def told(
    release: CandidateRelease, video_id: str, count: int = 20, **more: Any
) -> candidate_pb2.ExplainedRetrieval:
    pipeline = CandidatePipeline(release, fail_open=False)
    query = CandidateQuery(more.pop("viewer", viewer_of_rows(3, 9)), count, **more)
    return explain(pipeline, query, pipeline.retrieve(query), video_key(video_id))


def test_every_video_is_a_candidate_or_lost_with_a_reason(release: CandidateRelease) -> None:
    pipeline = CandidatePipeline(release, fail_open=False)
    query = CandidateQuery(viewer_of_rows(3, 9), 12)
    found = pipeline.retrieve(query)
    every = release.vectors @ release.viewer_vector(query.viewer)
    lost = 0
    for row, name in enumerate(video_ids(VIDEOS)):
        explained = explain(pipeline, query, found, video_key(name))
        scores = {each.name: each.values[0] for each in explained.scores}
        assert scores["two_tower"] == pytest.approx(every[row], rel=1e-5)
        if row in (3, 9):
            assert explained.lost_at == pb.LOST_AT_BLOCKED
            assert explained.reason == "The viewer has watched it."
            continue
        assert bool(explained.lost_at) == bool(explained.reason) == (row not in found.rows)
        ranks = {each.source: each for each in explained.source_ranks}
        free = np.delete(np.arange(VIDEOS), [3, 9])
        better = int((every[free] > every[row]).sum())
        assert ranks[viewer_pb2.SOURCE_TWO_TOWER].rank == better + 1
        assert ranks[viewer_pb2.SOURCE_TWO_TOWER].proposed == 12
        if explained.lost_at:
            lost += 1
            assert explained.lost_at == pb.LOST_AT_RETRIEVAL
            place = f"{better + 1}"
            assert f"two_tower ranked it {place}" in explained.reason
    assert lost == VIDEOS - 2 - 12


def test_a_video_that_no_source_proposed_is_told_how_each_ranked_it(
    release: CandidateRelease,
) -> None:
    reasons = [told(release, name, 5).reason for name in video_ids(VIDEOS)]
    none = [reason for reason in reasons if reason.startswith("No source proposed it: ")]
    assert any("two_tower ranked it 38th and proposed 5; " in reason for reason in none)
    assert all(" not rank it" in reason for reason in none if "co_watch ranked" not in reason)


def test_what_a_filtered_search_proposed_ranks_before_what_it_did_not(
    release: CandidateRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allowed, "MAX_LISTED", 0)
    monkeypatch.setattr(index, "_PASSING_PER_RESULT", 1)
    searched = release_in_cells(release, cells=8, probes=1)
    asked = expression(condition("duration", min=0.0))
    for seed in range(VIDEOS):
        query = CandidateQuery(viewer_of_rows(seed), 4, filter=asked)
        proposed = two_tower(Retrieval.of(searched, query), 4)
        for row in (int(each) for each in proposed):
            explained = told(searched, f"video-{row}", count=4, viewer=query.viewer, filter=asked)
            ranks = {each.source: each for each in explained.source_ranks}
            own = ranks[viewer_pb2.SOURCE_TWO_TOWER]
            assert 1 <= own.rank <= own.proposed == 4


def test_a_video_that_a_source_ranked_far_behind_is_told_after_how_many(
    release: CandidateRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vireo.server.recommend.retrieval.explain.MAX_CANDIDATES", 12)
    last = int((release.vectors @ release.viewer_vector(viewer_of_rows(3, 9))).argmin())
    assert "two_tower ranked it after its first 12" in told(release, f"video-{last}", 5).reason


def test_an_unknown_video_is_unknown_to_the_release_and_to_the_log(
    release: CandidateRelease, release_folder: Path
) -> None:
    explained = told(release, "nowhere")
    assert explained.lost_at == pb.LOST_AT_CATALOG
    assert explained.reason == "Release tiny-1 doesn't have this video."
    assert not explained.scores
    beside = CandidateRelease.load(release_folder, live=followed())
    assert told(beside, "nowhere").reason == (
        "Release tiny-1 doesn't have this video, nor was it added since."
    )


def test_removed_and_changed_videos_are_told_as_they_are_now(release_folder: Path) -> None:
    live = followed(
        removed(1, "video-5"),
        upserted(2, "gone", tags=["cat"]),
        removed(3, "gone"),
        upserted(4, "video-6", tags=["dog"]),
        upserted(5, "video-7", tags=["fish"]),
    )
    release = CandidateRelease.load(release_folder, live=live)
    for name in ("video-5", "gone"):
        explained = told(release, name)
        assert explained.lost_at == pb.LOST_AT_BLOCKED
        assert explained.reason == "It was removed from the catalogue."
    wanted = expression(condition("tag", any_of=["dog"]))
    assert told(release, "video-6", 40, filter=wanted).lost_at == pb.LOST_AT_UNSPECIFIED
    assert told(release, "video-7", filter=wanted).reason == (
        "A filter forbids it: its tag is fish, and must be dog."
    )


def test_new_videos_are_told_how_the_sources_of_the_log_ranked_them(release_folder: Path) -> None:
    kinds = ("cat", "dog", "fish")
    names = [f"new-{each}" for each in range(6)]
    entries = [upserted(1 + each, name, tags=[kinds[each % 3]]) for each, name in enumerate(names)]
    release = CandidateRelease.load(
        release_folder, live=followed(*entries, trending={"": ["new-5"]})
    )
    pipeline = CandidatePipeline(release, fail_open=False)
    query = CandidateQuery(viewer_of_rows(3, 9), 40)
    found = pipeline.retrieve(query)
    answers = {name: explain(pipeline, query, found, video_key(name)) for name in names}
    ranks = {
        name: {each.source: each.rank for each in answer.source_ranks}
        for name, answer in answers.items()
    }
    assert sorted(each[viewer_pb2.SOURCE_NEW] for each in ranks.values()) == [1, 2, 3, 4, 5, 6]
    assert ranks["new-5"][viewer_pb2.SOURCE_TRENDING] == 1
    assert ranks["new-0"][viewer_pb2.SOURCE_TRENDING] == 0
    lost = [answer for answer in answers.values() if answer.lost_at]
    assert len(lost) in (3, 4)  # 2 of 40 are proposed since they are near, one since it is trending
    for answer in lost:
        assert answer.lost_at == pb.LOST_AT_RETRIEVAL
        assert "new ranked it" in answer.reason
        assert "and proposed 2" in answer.reason
    forbidden = told(release, "new-0", filter=expression(condition("tag", any_of=["dog"])))
    assert forbidden.lost_at == pb.LOST_AT_FILTER


def test_the_farthest_new_video_is_told_its_rank(
    release_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vireo.server.recommend.retrieval.explain.MAX_CANDIDATES", 12)
    names = [f"new-{each}" for each in range(30)]
    live = followed(*(upserted(1 + each, name, tags=["cat"]) for each, name in enumerate(names)))
    release = CandidateRelease.load(release_folder, live=live)
    reasons = [told(release, name).reason for name in names]
    last = "No source proposed it: new ranked it 30th and proposed 1; "
    assert f"{last}trending and followed do not rank it." in reasons


def test_trending_ranks_new_videos_apart(release_folder: Path) -> None:
    mixed = ["video-20", "new-0", "video-21", "new-1"]
    entries = [upserted(1 + each, f"new-{each}", tags=["cat"]) for each in range(2)]
    live = followed(*entries, trending={"": mixed})
    release = CandidateRelease.load(release_folder, live=live)
    for place, name in enumerate(mixed):
        [trending] = [
            each
            for each in told(release, name).source_ranks
            if each.source == viewer_pb2.SOURCE_TRENDING
        ]
        assert (trending.rank, trending.proposed) == (1 + place // 2, 1)


def test_what_a_failed_viewer_tower_leaves_without_rank_and_score_is_told(tmp_path: Path) -> None:
    folder = build_release(tmp_path)
    poison_model(folder, layout.VIEWER_TOWER, "bias")
    live = followed(upserted(1, "new", tags=["cat"]))
    pipeline = CandidatePipeline(CandidateRelease.load(folder, live=live))
    query = CandidateQuery(viewer_of_rows(3), 5)
    explained = explain(pipeline, query, pipeline.retrieve(query), video_key("new"))
    assert explained.reason == (
        "No source proposed it: trending and followed do not rank it; fresh and two_tower failed."
    )
    assert [column.name for column in explained.scores] == ["co_watch", "ease"]


def request(**fields: Any) -> candidate_pb2.RetrieveCandidatesRequest:
    return candidate_pb2.RetrieveCandidatesRequest(
        viewer=viewer_pb2.ViewerFeatures(), count=20, page_size=5, **fields
    )


async def test_a_pod_explains_only_when_asked_and_its_candidates_stay_the_same(
    release_folder: Path,
) -> None:
    async with serving(CANDIDATE_POD, release_folder) as (_, channel):
        retrieve = CandidateServiceStub(channel).RetrieveCandidates
        plain = await retrieve(request())
        explained = await retrieve(request(explained_key=video_key("video-8")))
        unknown = await retrieve(request(explained_key=-1))
    assert not plain.HasField("explained")
    assert explained.explained.source_ranks
    assert unknown.explained.lost_at == pb.LOST_AT_CATALOG
    for each in (explained, unknown):
        each.ClearField("explained")
        assert each == plain
