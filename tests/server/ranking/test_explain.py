"""What a ranking pod tells of one video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.builders.catalogue import followed, upserted
from tests.builders.ranking import ranking_query
from tests.builders.recording import failure_of
from tests.builders.releases import build_release, video_ids
from tests.builders.rpc import serving
from tests.builders.viewers import viewer_of_rows
from vireo.server import signals
from vireo.server.features.keys import video_key, video_keys
from vireo.server.features.model_inputs import RETRIEVAL_FEATURES, VIDEO_FEATURES
from vireo.server.ranking.service import RANKING_POD
from vireo.server.recommend.ranking.diversity import DAMPING
from vireo.server.recommend.ranking.explain import explain
from vireo.server.recommend.ranking.pipeline import RankingPipeline, RankingQuery
from vireo.server.recommend.ranking.release import PageRules, RankingRelease
from vireo.server.releases.manifest import ScoreWeights
from vireo.v1 import ranking_pb2, viewer_pb2
from vireo.v1.ranking_pb2_grpc import RankingServiceStub

SCORES = tuple(score.name for score in signals.SCORES)
LOST = {name: np.full(1, 0.25, np.float32) for name in SCORES}


def explained(
    pipeline: RankingPipeline, asked: RankingQuery, video_id: str
) -> ranking_pb2.ExplainedRanking:
    return explain(pipeline, asked, video_key(video_id), LOST)


def values(columns: Sequence[viewer_pb2.ScoreColumn]) -> dict[str, float]:
    return {column.name: column.values[0] for column in columns}


@pytest.mark.parametrize("diversity", [0.0, 2.0])
def test_every_candidate_has_the_place_that_a_longer_page_gives_it(
    tmp_path: Path, diversity: float
) -> None:
    weights = ScoreWeights({"watch": 1.0, "like": 0.5}).with_diversity(diversity)
    pipeline = RankingPipeline(RankingRelease.load(build_release(tmp_path, weights=weights)))
    asked = ranking_query(video_ids(40), page_size=5)
    whole = pipeline.rank(replace(asked, page_size=40))
    moved = 0
    for place, row in enumerate(whole.rows.tolist()):
        told = explained(pipeline, asked, f"video-{row}")
        assert told.position == place + 1
        assert told.score == pytest.approx(whole.scores[place], rel=1e-6)
        assert values(told.task_scores) == pytest.approx(
            {name: float(column[place]) for name, column in whole.tasks.items()}, rel=1e-6
        )
        assert {each.name: each.value for each in told.task_weights} == {"watch": 1, "like": 0.5}
        assert told.score_factor == 1
        assert "of 40 candidates" in told.reason
        assert told.reason.endswith("; the page has the first 5.")
        moved += "(diversity 2)" in told.reason
    assert (moved > 0) == (diversity > 0)


def test_the_inputs_of_the_model_are_told_by_name(release: RankingRelease) -> None:
    asked = ranking_query(video_ids(10), page_size=5)
    told = explained(RankingPipeline(release), asked, "video-3")
    features = {each.name: each.value for each in told.features}
    assert features["two_tower"] == pytest.approx(float(asked.scores["two_tower"][3]))
    assert {features[name] for name in RETRIEVAL_FEATURES[len(SCORES) :]} == {0, 1}
    assert features["from_two_tower"] == 0 or features["from_two_tower"] == 1
    own = release.table.features.take(np.array([3]), axis=0)[0]
    assert [features[f"video.{name}"] for name in VIDEO_FEATURES] == pytest.approx(own.tolist())
    assert features["viewer.log_watch_count"] == pytest.approx(np.log1p(2))
    assert "content_match" in features


def test_a_video_that_is_no_candidate_has_the_place_that_it_would_have(
    release: RankingRelease,
) -> None:
    pipeline = RankingPipeline(release)
    ids = video_ids(40)
    told = explained(pipeline, ranking_query(ids[:-1], page_size=5), ids[-1])
    among = ranking_query(ids, page_size=40)
    for name in SCORES:
        among.scores[name][:-1] = np.linspace(1, 0, 39, dtype=np.float32)
        among.scores[name][-1] = 0.25
    whole = pipeline.rank(among)
    place = whole.rows.tolist().index(39)
    assert told.position == place + 1
    assert told.score == pytest.approx(whole.scores[place], rel=1e-6)
    assert told.reason.startswith("As a candidate it would be the ")


def test_a_damped_score_says_so_and_why(release: RankingRelease) -> None:
    pipeline = RankingPipeline(release)
    viewer = replace(
        viewer_of_rows(1, 2),
        hidden_keys=video_keys(["video-5"]),
        hidden_times=np.array([1000]),
        asked_at=1000,
    )
    before = explained(pipeline, ranking_query(video_ids(40), 5), "video-10")  # of the same creator
    told = explained(pipeline, ranking_query(video_ids(40), 5, viewer), "video-10")
    assert told.score_factor == pytest.approx(DAMPING)
    assert told.score == pytest.approx(DAMPING * before.score, rel=1e-5)
    assert "0.2 of what it was, since the viewer has hidden a video like it" in told.reason


def test_a_score_that_fell_after_impressions_says_so(tmp_path: Path) -> None:
    weights = ScoreWeights({"watch": 1.0, "fatigue": 1.0})
    pipeline = RankingPipeline(RankingRelease.load(build_release(tmp_path, weights=weights)))
    viewer = replace(
        viewer_of_rows(1, 2),
        shown_keys=video_keys(["video-5"] * 3),
        shown_times=np.array([60, 120, 180]),
        asked_at=180,
    )
    before = explained(pipeline, ranking_query(video_ids(40), 5), "video-5")
    told = explained(pipeline, ranking_query(video_ids(40), 5, viewer), "video-5")
    assert told.score_factor == pytest.approx(0.25, rel=1e-3)
    assert told.score == pytest.approx(0.25 * before.score, rel=1e-3)
    assert "0.25 of what it was, since it was shown before and not played" in told.reason
    assert explained(pipeline, ranking_query(video_ids(40), 5, viewer), "video-6").score_factor == 1


def test_a_reserved_position_is_told_to_who_has_it_and_to_who_has_not(release_folder: Path) -> None:
    news = [upserted(1 + each, f"new-{each}", tags=["dog"]) for each in range(3)]
    pipeline = RankingPipeline(RankingRelease.load(release_folder, followed(*news)))
    ids = [*video_ids(40), "new-0", "new-1", "new-2"]
    asked = ranking_query(ids, page_size=43)
    reasons = [explained(pipeline, asked, each).reason for each in ids]
    whole = pipeline.rank(asked)
    places = {key: place + 1 for place, key in enumerate(whole.keys.tolist())}
    told = [explained(pipeline, asked, each).position for each in ids]
    assert told == [places[key] for key in video_keys(ids).tolist()]
    assert any("a reserved position makes it the" in reason for reason in reasons[40:])
    assert any("positions reserved for others" in reason for reason in reasons[:40])


def test_what_the_rules_of_the_site_did_to_a_video_is_told(release: RankingRelease) -> None:
    pipeline = RankingPipeline(release)
    plain = ranking_query(video_ids(20), page_size=5)
    best, *_, last = pipeline.rank(replace(plain, page_size=20)).rows.tolist()
    factors = np.ones(20, np.float32)
    factors[last] = 0.5
    boosted = replace(plain, rules=PageRules(factors=factors))
    told = explained(pipeline, boosted, f"video-{last}")
    assert "0.5 times what it was by the site's rules" in told.reason

    pinned = replace(plain, rules=PageRules(pins={1: video_key(f"video-{last}")}))
    told = explained(pipeline, pinned, f"video-{last}")
    assert told.position == 2
    assert "; the site's rules pin it as the 2nd; the page has the first 5." in told.reason

    # All have one label, of which the page may have two.
    capped = replace(plain, rules=PageRules(factors=factors, caps=[(2, lambda _: [0])]))
    told = explained(pipeline, capped, f"video-{last}")
    assert told.position == 0
    assert "a cap of the site's rules keeps it off the page" in told.reason
    assert explained(pipeline, capped, f"video-{best}").position == 1
    # No rule is for a video that was no candidate.
    assert explained(pipeline, capped, "video-30").position > 0


def test_what_is_pinned_after_the_pages_end_has_its_place_on_the_page(
    release: RankingRelease,
) -> None:
    pipeline = RankingPipeline(release)
    plain = ranking_query(video_ids(20), page_size=5)
    order = pipeline.rank(replace(plain, page_size=20)).keys.tolist()
    asked = replace(plain, rules=PageRules(pins={7: order[1], 9: order[12], 2: order[15]}))
    page = pipeline.rank(asked).keys.tolist()
    assert page == [*order[:2], order[15], *order[2:4]]
    told = {key: explain(pipeline, asked, key, LOST) for key in order}
    assert [told[key].position for key in page] == [1, 2, 3, 4, 5]
    assert told[order[4]].position == 6
    assert told[order[12]].position == 14
    for key, pinned in ((order[1], 8), (order[12], 10)):
        assert f"pin it as the {pinned}th, after the page's end; the page" in told[key].reason


def test_a_video_that_the_release_lacks_comes_last_without_scores(release: RankingRelease) -> None:
    pipeline = RankingPipeline(release)
    told = explained(pipeline, ranking_query(["nowhere", *video_ids(9)], 5), "nowhere")
    assert told.position == 10
    assert "tiny-1 of the ranking pod lacks it" in told.reason
    assert not told.task_scores
    assert not told.features


def request(**fields: object) -> ranking_pb2.RankCandidatesRequest:
    keys = video_keys(video_ids(9)).tolist()
    columns = [viewer_pb2.ScoreColumn(name=name, values=[0.5] * 9) for name in SCORES]
    made = ranking_pb2.RankCandidatesRequest(
        viewer=viewer_pb2.ViewerFeatures(),
        keys=keys,
        source_masks=[2] * 9,
        scores=columns,
        page_size=4,
    )
    made.MergeFrom(ranking_pb2.RankCandidatesRequest(**fields))  # type: ignore[arg-type]
    return made


async def test_a_pod_explains_only_when_asked_and_its_page_stays_the_same(
    release_folder: Path,
) -> None:
    async with serving(RANKING_POD, release_folder) as (_, channel):
        rank = RankingServiceStub(channel).RankCandidates
        plain = await rank(request())
        answer = await rank(request(explained_key=video_key("video-8")))
        lost = await rank(request(explained_key=video_key("video-30")))
    assert not plain.HasField("explained")
    assert answer.explained.position > 0
    assert lost.explained.reason.startswith("As a candidate")
    for each in (answer, lost):
        each.ClearField("explained")
        assert each == plain


async def test_bad_scores_of_the_explained_video_are_refused_by_name(release_folder: Path) -> None:
    column = viewer_pb2.ScoreColumn(name="two_tower", values=[1, 2])
    async with serving(RANKING_POD, release_folder) as (_, channel):
        asked = request(explained_key=1, explained_scores=[column])
        failure = await failure_of(RankingServiceStub(channel).RankCandidates(asked))
    assert (failure.code, failure.fields) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        ("explained_scores",),
    )
    assert "2 values instead of 1" in str(failure)


async def test_a_key_that_occurs_twice_is_explained_once(release_folder: Path) -> None:
    asked = request(explained_key=video_key("video-0"))
    asked.keys[1] = asked.keys[0]
    async with serving(RANKING_POD, release_folder) as (_, channel):
        answer = await RankingServiceStub(channel).RankCandidates(asked)
    assert answer.explained.position > 0
