"""What is recorded of a page: scores of candidates, placements and propensities."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.builders.catalogue import followed, upserted
from tests.builders.ranking import ranking_query
from tests.builders.viewers import viewer_of_rows
from vireo.server.features.keys import video_keys
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.recommend.page import Page, fill_page
from vireo.server.recommend.ranking.pipeline import (
    NEW_SHARE,
    RankedCandidates,
    RankingPipeline,
    RankingQuery,
)
from vireo.server.recommend.ranking.record import Placement, Record, Selected, propensities
from vireo.server.recommend.ranking.release import PageRules, RankingRelease
from vireo.server.signals import TRENDING
from vireo.v1 import ranking_pb2

OWN = [f"video-{row}" for row in range(40)]
NEWS = [f"new-{number}" for number in range(6)]


@pytest.fixture(scope="module")
def beside(release_folder: Path) -> RankingRelease:
    upserts = [upserted(1 + place, name, tags=["dog"]) for place, name in enumerate(NEWS)]
    return RankingRelease.load(release_folder, followed(*upserts))


def ranked(release: RankingRelease, query: RankingQuery) -> tuple[RankedCandidates, Record]:
    answer = RankingPipeline(release).rank(replace(query, recorded=query.recorded or 20))
    assert answer.record is not None
    return answer, answer.record


def test_a_page_is_the_same_recorded_or_not(beside: RankingRelease) -> None:
    query = ranking_query([*OWN, *NEWS], page_size=10)
    plain = RankingPipeline(beside).rank(query)
    assert plain.record is None
    answer, record = ranked(beside, query)
    assert answer.keys.tolist() == plain.keys.tolist()
    assert query.keys[record.places[:10]].tolist() == plain.keys.tolist()
    assert np.array_equal(record.scores["score"][:10], plain.scores)
    tasks = {name: record.scores[f"task_{name}"][:10] for name in plain.tasks}
    assert all(np.array_equal(tasks[name], plain.tasks[name]) for name in tasks)
    features = beside.videos.features.take(plain.rows, axis=0)
    assert np.array_equal(record.video_features, features)


def test_the_best_others_are_recorded_and_a_sample_of_the_rest(beside: RankingRelease) -> None:
    query = ranking_query(OWN, page_size=5)
    _, every = ranked(beside, replace(query, recorded=1000))
    assert sorted(every.places.tolist()) == [*range(40)]

    _, record = ranked(beside, replace(query, recorded=23))
    assert len({*record.places.tolist()}) == len(record.places) == 23
    scores, all_scores = record.scores["score"], every.scores["score"]
    best, sample = scores[5:20], scores[20:]
    assert np.array_equal(best, all_scores[5:20])
    assert sample.max() <= best.min()
    assert np.array_equal(all_scores[np.isin(every.places, record.places[20:])], sample)


def test_a_page_larger_than_the_number_to_record_is_recorded_whole(
    beside: RankingRelease,
) -> None:
    answer, record = ranked(beside, replace(ranking_query(OWN, page_size=30), recorded=3))
    assert len(record.places) == len(answer.keys) == len(record.placements) == 30


def test_what_put_a_video_in_its_position_is_recorded(beside: RankingRelease) -> None:
    rules = PageRules(pins={2: int(video_keys(["video-30"])[0])}, new_share=0.5)
    query = replace(ranking_query([*OWN, *NEWS], page_size=10), rules=rules)
    answer, record = ranked(beside, query)
    by = dict(zip(answer.keys.tolist(), record.placements, strict=True))
    assert record.placements[2] == Placement.PINNED
    news = set(video_keys(NEWS).tolist())
    reserved = {key for key, each in by.items() if each == Placement.NEW}
    assert reserved
    assert reserved <= news

    stranger = ranking_query(OWN, 10, ViewerFeatures(asked_at=5))
    masks = np.where(np.arange(40) >= 30, TRENDING.bit, 2).astype(np.uint32)
    _, record = ranked(beside, replace(stranger, source_masks=masks))
    assert Counter(record.placements)[Placement.TRENDING] == 5


def test_a_video_before_a_better_one_is_there_by_diversity(beside: RankingRelease) -> None:
    weights = beside.manifest.score_weights.with_diversity(2.0)
    manifest = beside.manifest.model_copy(update={"score_weights": weights})
    diverse = replace(beside, manifest=manifest)
    answer, record = ranked(diverse, ranking_query(OWN, page_size=40))
    scores = answer.scores.tolist()
    for position, placement in enumerate(record.placements):
        best = scores[position] >= max(scores[position:])
        assert (placement == Placement.SCORE) == best
    assert Placement.DIVERSITY in record.placements


def test_propensities_are_the_shares_of_requests_that_have_the_video_there(
    beside: RankingRelease,
) -> None:
    names, requests = [*OWN, *NEWS], 600
    stated, shown = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    for moment in range(requests):
        # The draw goes by the time, and the scores hardly do.
        viewer = replace(viewer_of_rows(1, 2), asked_at=1000 + moment)
        answer, record = ranked(beside, ranking_query(names, 10, viewer))
        for position, (key, propensity) in enumerate(
            zip(answer.keys.tolist(), record.propensities.tolist(), strict=True)
        ):
            assert 0 < propensity <= 1
            shown[position, key] += 1
            stated[position, key] += propensity
    usual = [each for each, count in shown.items() if count > requests / 4]
    assert len(usual) >= 10
    for each in usual:
        assert stated[each] / shown[each] == pytest.approx(shown[each] / requests, abs=0.12)
    news = set(video_keys(NEWS).tolist())
    rare = [each for each in shown if each[1] in news]
    assert rare
    for each in rare:
        assert stated[each] / shown[each] < 0.5
    assert NEW_SHARE < 0.1


@pytest.mark.parametrize(("share", "count", "tolerance"), [(0.07, 10, 1e-3), (0.013, 60, 0.05)])
def test_propensities_are_exact_up_to_a_number_of_pages(
    share: float, count: int, tolerance: float
) -> None:
    filled = list[float]()

    def drawn(offset: float) -> Page:
        filled.append(offset)
        return fill_page(range(count), count, queues=[(share, np.arange(100, 200))], offset=offset)

    page = drawn(0.6)
    filled.clear()
    stated = propensities(Selected(page, [Placement.NEW], drawn, [share]))
    assert len(filled) <= 20
    assert stated.min() > 0
    pages = [drawn(float(draw)).places for draw in (np.arange(5000) + 0.5) / 5000]
    of_draws = np.mean([each == page.places for each in pages], axis=0)
    assert stated == pytest.approx(of_draws, abs=tolerance)


def test_without_reserved_positions_every_video_is_certain(release_folder: Path) -> None:
    _, record = ranked(RankingRelease.load(release_folder), ranking_query(OWN, page_size=10))
    assert record.propensities.tolist() == [1.0] * 10


def test_placements_are_numbered_as_in_the_api() -> None:
    named = {f"PLACEMENT_{each.name}": each.value for each in Placement}
    assert {"PLACEMENT_UNSPECIFIED": 0, **named} == dict(ranking_pb2.Placement.items())
