"""What the log adds to ranking: new videos, their positions, and damping after a hide."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.builders.catalogue import followed, upserted
from tests.builders.ranking import ranking_query
from tests.builders.viewers import viewer_of_rows
from vireo.server.features.keys import video_keys
from vireo.server.features.looked_up import looked_up
from vireo.server.features.model_inputs import ranking_inputs, retrieval_features
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.ranking.service import encode
from vireo.server.recommend.page import fill_page
from vireo.server.recommend.ranking.diversity import DAMPED_DAYS, DAMPING
from vireo.server.recommend.ranking.pipeline import (
    NEW_IMPRESSIONS,
    NEW_SHARE,
    RankedCandidates,
    RankingPipeline,
    RankingQuery,
)
from vireo.server.recommend.ranking.record import Placement
from vireo.server.recommend.ranking.release import PageRules, RankingRelease
from vireo.server.releases.manifest import ScoreWeights
from vireo.server.signals import COLD_SHARE, TRENDING

DAY = 86_400
OWN = [f"video-{row}" for row in range(40)]
NEWS = [f"new-{number}" for number in range(6)]
UPSERTS = [
    upserted(1 + place, name, title=f"News {name}", tags=["dog"], creator="creator-1")
    for place, name in enumerate(NEWS)
]


def rank(release: RankingRelease, query: RankingQuery) -> RankedCandidates:
    return RankingPipeline(release).rank(query)


@pytest.fixture(scope="module")
def beside(release_folder: Path) -> RankingRelease:
    return RankingRelease.load(release_folder, followed(*UPSERTS))


def test_new_videos_are_ranked_with_what_is_known_of_them(beside: RankingRelease) -> None:
    query = ranking_query(["video-3", "new-2", "video-8"])
    ranked = rank(beside, query)

    assert ranked.unknown == 0
    rows = beside.find(query.keys)
    inputs = ranking_inputs(
        query.viewer,
        np.array([1, 2]),
        rows,
        retrieval_features(query.scores, query.source_masks),
        beside.videos,
        beside.vocabulary,
    )
    assert beside.live is not None
    side = beside.live
    assert np.array_equal(inputs["candidate_vectors"][0, 1], side.vectors[rows[1] - 40])
    assert np.array_equal(inputs["candidate_features"][0, 1], side.features[rows[1] - 40])
    [own] = looked_up(beside.table.vectors, np.array([3]))
    assert np.array_equal(inputs["candidate_vectors"][0, 0], own)
    tasks = beside.ranker.run(inputs)[0]
    by_key = dict(zip(ranked.keys.tolist(), ranked.tasks["watch"].tolist(), strict=True))
    assert [by_key[key] for key in query.keys.tolist()] == pytest.approx(tasks[:, 0].tolist())
    answer = encode(ranked, beside, titles=True)
    titles = dict(zip(answer.ids, answer.titles, strict=True))
    assert titles["new-2"] == "News new-2"
    assert titles["video-3"] == "Title of video-3"


def test_a_video_that_the_catalogue_renamed_has_its_new_title(release_folder: Path) -> None:
    renamed = upserted(1, "video-3", title="Another", tags=["cat"])
    release = RankingRelease.load(release_folder, followed(renamed))
    answer = encode(rank(release, ranking_query(["video-3", "video-4"])), release, titles=True)
    titles = dict(zip(answer.ids, answer.titles, strict=True))
    assert titles == {"video-3": "Another", "video-4": "Title of video-4"}


def test_a_changed_video_keeps_its_statistics(release_folder: Path) -> None:
    changed = upserted(1, "video-3", tags=["fish"])
    release = RankingRelease.load(release_folder, followed(changed))
    [row] = release.find(video_keys(["video-3"])).tolist()
    assert row == 40
    features = release.videos.features.take(np.array([row, 3]), axis=0)
    assert np.array_equal(features[0], features[1])
    vectors = release.videos.vectors.take(np.array([row, 3]), axis=0)
    assert not np.array_equal(vectors[0], vectors[1])


def test_new_videos_get_their_share_of_positions_and_pages_stay_prefixes(
    beside: RankingRelease,
) -> None:
    names = [*OWN, *NEWS]
    held = 0
    for moment in range(300):
        viewer = replace(viewer_of_rows(1, 2), asked_at=1000 + moment)
        long, short = (
            rank(beside, ranking_query(names, page_size, viewer)).keys.tolist()
            for page_size in (20, 10)
        )
        assert long[:10] == short
        assert len(set(long)) == 20
        news = set(video_keys(NEWS).tolist())
        every = rank(beside, ranking_query(names, len(names), viewer)).keys.tolist()
        usual, by_score = ([key for key in keys if key not in news] for keys in (long, every))
        assert usual == by_score[: len(usual)]
        held += len(news & {*long[:10]})
    share = held / 3000
    assert share >= NEW_SHARE * 0.8


def test_a_rule_sets_the_share_of_positions_of_new_videos(beside: RankingRelease) -> None:
    news = set(video_keys(NEWS).tolist())

    def held(share: float) -> int:
        query = replace(
            ranking_query([*OWN, *NEWS], page_size=10), rules=PageRules(new_share=share)
        )
        return len(news & {*rank(beside, query).keys.tolist()})

    assert held(0.5) == 5
    assert held(0.0) == 0


def test_after_enough_impressions_a_new_video_has_no_position_of_its_own(
    release_folder: Path,
) -> None:
    names = [*OWN, *NEWS]
    seen = followed(*UPSERTS, impressions=dict.fromkeys(NEWS, NEW_IMPRESSIONS))
    release = RankingRelease.load(release_folder, seen)
    assert release.live is not None
    keys = video_keys(names)
    assert not release.live.unseen(keys, release.find(keys), NEW_IMPRESSIONS).any()
    assert release.live.unseen(keys, release.find(keys), NEW_IMPRESSIONS + 1).sum() == len(NEWS)


def test_a_hidden_creators_new_videos_have_no_positions_of_their_own(
    beside: RankingRelease,
) -> None:
    names, news = [*OWN, *NEWS], set(video_keys(NEWS).tolist())
    keys, times = video_keys(["new-0"]), np.array([DAY])
    for moment in range(40):
        viewer = replace(
            viewer_of_rows(1, 2), asked_at=DAY + moment, hidden_keys=keys, hidden_times=times
        )
        assert not news & set(rank(beside, ranking_query(names, 20, viewer)).keys.tolist())
    # Nor as what is trending, before a viewer without a history.
    masks = np.where(np.isin(video_keys(names), list(news)), TRENDING.bit, 2).astype(np.uint32)
    stranger = ViewerFeatures(asked_at=DAY, hidden_keys=keys, hidden_times=times)
    cold = ranking_query(names, 10, stranger)
    assert not news & set(rank(beside, replace(cold, source_masks=masks)).keys.tolist())


def tiring(release: RankingRelease, strength: float) -> RankingRelease:
    weights = ScoreWeights({**release.manifest.score_weights.root, "fatigue": strength})
    manifest = release.manifest.model_copy(update={"score_weights": weights})
    return replace(release, manifest=manifest)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_what_was_shown_and_not_played_loses_score_and_comes_back(
    release: RankingRelease, strength: float
) -> None:
    def scores(days: float, *shown: str, of: RankingRelease | None = None) -> dict[int, float]:
        viewer = replace(
            viewer_of_rows(1, 2),
            asked_at=int((100 + days) * DAY),
            shown_keys=video_keys([*shown]),
            shown_times=np.full(len(shown), 100 * DAY),
        )
        found = rank(of or tiring(release, strength), ranking_query(OWN, viewer=viewer))
        return dict(zip(found.keys.tolist(), found.scores.tolist(), strict=True))

    plain, shown = scores(0), ["video-7", "video-9", "video-9", "gone"]
    once, twice = video_keys(shown[:2]).tolist()
    for days in (0.0, 7.0, 70.0):
        tired, left = scores(days, *shown), 0.5 ** (days / 7)
        assert tired.pop(once) == pytest.approx((1 + left) ** -strength * plain[once], rel=1e-4)
        assert tired.pop(twice) == pytest.approx(
            (1 + 2 * left) ** -strength * plain[twice], rel=1e-4
        )
        assert tired == {key: plain[key] for key in tired}
    assert scores(0, *shown, of=release) == plain, "releases of before have no fatigue"


def test_a_new_video_that_was_shown_often_has_no_position_of_its_own(
    beside: RankingRelease,
) -> None:
    news = video_keys(NEWS)

    def reserved(times: int) -> set[int]:
        viewer = replace(
            viewer_of_rows(1, 2),
            asked_at=DAY,
            shown_keys=np.repeat(news[:5], times),
            shown_times=np.full(5 * times, DAY),
        )
        query = ranking_query([*OWN, *NEWS], 12, viewer)
        found = rank(
            tiring(beside, 1.0), replace(query, rules=PageRules(new_share=0.5), recorded=1)
        )
        assert found.record is not None
        placed = zip(found.keys.tolist(), found.record.placements, strict=True)
        return {key for key, each in placed if each == Placement.NEW}

    assert len(reserved(1) & {*news[:5].tolist()}) >= 4, "half of the score is left"
    assert reserved(2) == {int(news[5])}


def test_half_of_a_cold_viewers_page_is_trending(release_folder: Path) -> None:
    release = RankingRelease.load(release_folder, followed())
    query = ranking_query(OWN, 10, ViewerFeatures(asked_at=5))
    last = rank(release, ranking_query(OWN, 40, ViewerFeatures(asked_at=5))).keys[-8:]
    masks = np.where(np.isin(query.keys, last), 2 | TRENDING.bit, 2).astype(np.uint32)
    page = rank(release, replace(query, source_masks=masks)).keys
    assert np.isin(page, last).sum() == COLD_SHARE * 10

    warm = replace(query, source_masks=masks, viewer=viewer_of_rows(1, 2))
    assert (
        rank(release, warm).keys.tolist()
        == rank(release, replace(warm, source_masks=np.full(40, 2, np.uint32))).keys.tolist()
    )


def test_positions_are_filled_by_others_if_nothing_claims_them() -> None:
    def filled(queue: list[int], offset: float) -> list[int]:
        page = fill_page(range(6), 6, queues=[(0.5, np.array(queue))], offset=offset)
        return [*map(int, page.places)]

    assert filled([5], 0.0) == [0, 5, 1, 2, 3, 4]
    assert filled([0, 9], 0.5) == [0, 1, 9, 2, 3, 4]


def test_videos_like_a_hidden_one_are_damped_and_recover(release: RankingRelease) -> None:
    def scores(days: float, hidden: str = "video-7") -> dict[int, float]:
        viewer = replace(
            viewer_of_rows(1, 2),
            asked_at=100 * DAY,
            hidden_keys=video_keys([hidden]),
            hidden_times=np.array([int((100 - days) * DAY)]),
        )
        ranked = rank(release, ranking_query(OWN, viewer=viewer))
        return dict(zip(ranked.keys.tolist(), ranked.scores.tolist(), strict=True))

    plain = scores(0, "nobody knows it")
    like = [f"video-{row}" for row in range(2, 40, 5)]  # of the creator of video-7
    for days, factor in ((0.0, DAMPING), (DAMPED_DAYS / 2, (1 + DAMPING) / 2), (DAMPED_DAYS, 1.0)):
        damped = scores(days)
        for key in video_keys(like).tolist():
            assert damped[key] == pytest.approx(factor * plain[key], rel=1e-4)
    damped = scores(0.0)
    table = release.table
    vectors, content = table.vectors.take(np.arange(40), 0), table.content.take(np.arange(40), 0)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = (unit @ unit[7] >= 0.8) | (content @ content[7] >= 0.8) | (np.arange(40) % 5 == 2)
    for row, key in enumerate(video_keys(OWN).tolist()):
        assert damped[key] == pytest.approx(plain[key] * (DAMPING if near[row] else 1), rel=1e-4)


def test_a_new_video_is_damped_as_its_creators_others(beside: RankingRelease) -> None:
    viewer = replace(
        viewer_of_rows(1, 2),
        asked_at=DAY,
        hidden_keys=video_keys(["new-0"]),
        hidden_times=np.array([DAY]),
    )
    plain = rank(beside, ranking_query(OWN))
    damped = rank(beside, ranking_query(OWN, viewer=viewer))
    [of_it] = video_keys(["video-1"]).tolist()
    before, after = (
        dict(zip(each.keys.tolist(), each.scores.tolist(), strict=True))[of_it]
        for each in (plain, damped)
    )
    assert after == pytest.approx(DAMPING * before, rel=1e-4)
