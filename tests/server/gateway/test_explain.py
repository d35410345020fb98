"""What became of one video in a slate, of a chain of real pods."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.builders.attributes import labels_of
from tests.builders.chain import Chain
from tests.builders.filters import condition, message
from tests.builders.refusals import failure_of
from tests.builders.releases import CREATORS, video_ids
from tests.builders.tiny_home import VIEWER, WATCHED
from vireo.server.recommend.wording import ordinal
from vireo.server.signals import SCORES
from vireo.v1 import recommendation_pb2 as pb

if TYPE_CHECKING:
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceAsyncStub

SLATE = pb.RecommendRequest(viewer_id=VIEWER, page_size=5)


def asked(video_id: str, **fields: Any) -> pb.ExplainVideoRequest:
    slate = pb.RecommendRequest()
    slate.CopyFrom(SLATE)
    slate.MergeFrom(pb.RecommendRequest(**fields))
    return pb.ExplainVideoRequest(request=slate, video_id=video_id)


def values(named: Any) -> dict[str, float]:
    return {each.name: each.value for each in named}


async def test_each_video_of_a_page_is_told_its_place_and_scores(
    whole: RecommendationServiceAsyncStub,
) -> None:
    slate = await whole.Recommend(SLATE)
    for item in slate.items:
        told = await whole.ExplainVideo(asked(item.video_id))
        assert told.lost_at == pb.LOST_AT_UNSPECIFIED
        assert told.position == item.position
        assert told.score == pytest.approx(item.score)
        assert told.sources == item.sources
        assert told.task_scores.watch == pytest.approx(item.task_scores.watch)
        assert told.task_scores.like == pytest.approx(item.task_scores.like)
        assert values(told.task_weights) == {"watch": 1, "like": 0.5}
        assert set(values(told.retrieval_scores)) == {score.name for score in SCORES}
        assert values(told.retrieval_scores).items() <= values(told.ranking_features).items()
        assert 0 < told.retrieval_rank <= told.candidates == len(video_ids(40)) - len(WATCHED)
        assert told.score_factor == 1
        assert told.HasField("features_age")
        assert told.release_id == "tiny-1"
        assert told.request_id
        assert not told.degradations


async def test_a_ranked_video_after_the_page_is_told_its_place(
    whole: RecommendationServiceAsyncStub,
) -> None:
    longer = await whole.Recommend(pb.RecommendRequest(viewer_id=VIEWER, page_size=20))
    last = longer.items[-1]
    told = await whole.ExplainVideo(asked(last.video_id))
    assert told.lost_at == pb.LOST_AT_RANKING
    assert told.position == 20
    assert told.reason.startswith("By its score of ")
    assert told.reason.endswith("; the page has the first 5.")


async def test_a_video_that_retrieval_lost_is_told_its_score_as_a_candidate(
    chain: Chain,
) -> None:
    async with chain.gateway(candidates=8) as stub:
        reports = [await stub.ExplainVideo(asked(name)) for name in video_ids(40)]
        page = {item.video_id for item in (await stub.Recommend(SLATE)).items}
    stages = [each.lost_at for each in reports]
    assert stages.count(pb.LOST_AT_BLOCKED) == len(WATCHED)
    assert stages.count(pb.LOST_AT_UNSPECIFIED) == 5
    assert stages.count(pb.LOST_AT_RANKING) == 3
    for name, told in zip(video_ids(40), reports, strict=True):
        assert (told.lost_at == pb.LOST_AT_UNSPECIFIED) == (name in page)
        assert told.candidates == 8
        if told.lost_at == pb.LOST_AT_RETRIEVAL:
            assert "two_tower ranked it " in told.reason
            assert "As a candidate it would be the " in told.reason
            assert told.score > 0
            assert told.task_scores.watch > 0
            assert not told.position
            assert not told.retrieval_rank
            assert not told.sources
            assert told.source_ranks


@pytest.mark.parametrize(
    ("video_id", "fields", "lost_at", "reason"),
    [
        ("nowhere", {}, pb.LOST_AT_CATALOG, "Release tiny-1 doesn't have this video."),
        (WATCHED[0], {}, pb.LOST_AT_BLOCKED, "The viewer has watched it."),
        (
            "video-30",
            {"excluded_video_ids": ["video-30"]},
            pb.LOST_AT_BLOCKED,
            "The request excludes it.",
        ),
        (
            "video-30",
            {"surface": pb.SURFACE_UP_NEXT, "seed_video_id": "video-30"},
            pb.LOST_AT_BLOCKED,
            "It is the video that is playing.",
        ),
        (
            "video-30",  # a cat
            {"filter": message(condition("tag", any_of=["dog"]))},
            pb.LOST_AT_FILTER,
            "A filter forbids it: its tag is cat, and must be dog.",
        ),
    ],
)
@pytest.mark.parametrize("away", ["", "candidate"])
async def test_a_video_that_must_not_be_shown_is_told_why_whoever_makes_the_slate(
    chain: Chain,
    video_id: str,
    fields: dict[str, Any],
    lost_at: pb.LostAt.ValueType,
    reason: str,
    away: str,
) -> None:
    async with chain.gateway(away=away) as stub:
        told = await stub.ExplainVideo(asked(video_id, **fields))
    if away and video_id == "nowhere":  # the gateway has only the popular list
        lost_at = pb.LOST_AT_RETRIEVAL
        reason = "Retrieval failed, and the popular list of 40 videos lacks it."
    if away:
        reason += " The slate is degraded: popular fallback."
    assert told.lost_at == lost_at
    assert told.reason == reason
    assert not told.position
    assert not told.score


async def test_a_removed_video_is_told_so_even_if_pods_do_not_know_of_it(
    chain: Chain, down: set[str]
) -> None:
    down.add("video-30")
    for away in ("", "candidate"):
        async with chain.gateway(away=away) as stub:
            told = await stub.ExplainVideo(asked("video-30"))
        assert told.lost_at == pb.LOST_AT_BLOCKED
        assert told.reason.startswith("It was removed from the catalogue.")


async def test_the_popular_fallback_tells_the_place_in_the_list(chain: Chain) -> None:
    names = [name for name in video_ids(40) if name not in WATCHED]
    async with chain.gateway(away="candidate") as stub:
        first, later = [await stub.ExplainVideo(asked(names[place])) for place in (2, 20)]
    assert (first.lost_at, first.position) == (pb.LOST_AT_UNSPECIFIED, 3)
    assert (later.lost_at, later.position) == (pb.LOST_AT_RANKING, 21)
    assert later.reason == (
        "Retrieval failed: it is the 21st of the popular list; the page has the first 5. "
        "The slate is degraded: popular fallback."
    )


async def test_the_popular_fallback_tells_of_a_change_that_the_filter_may_not_allow(
    chain: Chain, changed: set[str]
) -> None:
    changed.add("video-30")
    cats = message(condition("tag", any_of=["cat"]))
    async with chain.gateway(away="candidate") as stub:
        told, unfiltered = [
            await stub.ExplainVideo(asked("video-30", **fields))
            for fields in ({"filter": cats}, {})
        ]
    assert told.lost_at == pb.LOST_AT_FILTER
    assert told.reason.startswith(
        "It changed in the catalogue: while retrieval fails, nobody knows"
    )
    assert unfiltered.lost_at == pb.LOST_AT_RANKING


async def test_the_popular_fallback_tells_what_a_cap_keeps_off_and_a_pin_brings_back(
    chain: Chain, tmp_path: Path
) -> None:
    names = [name for name in video_ids(40) if name not in WATCHED]
    cats = [name for name in names if "tag=cat" in labels_of(int(name[6:]), CREATORS)]
    rules = tmp_path / "rules.toml"
    cap = '[[caps]]\nname = "one"\nattribute = "tag"\nvalues = ["cat"]\nmax = 1\n'
    pin = f'[[pins]]\nname = "pin"\nvideo_id = "{cats[1]}"\nposition = 2\n'
    told = []
    for text in (cap, cap + pin):
        rules.write_text(text)
        async with chain.gateway(away="candidate", rules=rules) as stub:
            told.append(await stub.ExplainVideo(asked(cats[1])))
    off, back = told
    assert (off.lost_at, off.position) == (pb.LOST_AT_RANKING, 0)
    assert off.reason.startswith("Retrieval failed, and a cap of the site's rules keeps it off.")
    assert (back.lost_at, back.position) == (pb.LOST_AT_UNSPECIFIED, 2)
    assert "The site's rules pin it to position 2." in back.reason


async def test_skipped_ranking_tells_the_place_in_the_order_of_retrieval(
    chain: Chain,
) -> None:
    async with chain.gateway(away="ranking") as stub:
        slate = await stub.Recommend(pb.RecommendRequest(viewer_id=VIEWER, page_size=7))
        told = [await stub.ExplainVideo(asked(item.video_id)) for item in slate.items]
    assert [each.position for each in told] == list(range(1, 8))
    assert [each.lost_at for each in told] == [0] * 5 + [pb.LOST_AT_RANKING] * 2
    assert told[6].reason == (
        "Ranking was skipped: it is the 7th of 37 candidates in the order of retrieval; the page "
        "has the first 5. The slate is degraded: ranking skipped."
    )
    assert not told[6].score
    assert not told[6].HasField("task_scores")


@pytest.mark.parametrize("away", ["", "ranking", "candidate"])
async def test_pins_after_the_pages_end_move_nothing(
    chain: Chain, tmp_path: Path, away: str
) -> None:
    async with chain.gateway(away=away) as stub:
        longer = await stub.Recommend(pb.RecommendRequest(viewer_id=VIEWER, page_size=9))
    names = [item.video_id for item in longer.items]
    rules = tmp_path / "rules.toml"
    rules.write_text(
        "".join(
            f'[[pins]]\nname = "{name}"\nvideo_id = "{name}"\nposition = {position}\n'
            for name, position in ((names[1], 20), (names[8], 3))
        )
    )
    async with chain.gateway(away=away, rules=rules) as stub:
        page = [item.video_id for item in (await stub.Recommend(SLATE)).items]
        told = {name: await stub.ExplainVideo(asked(name)) for name in names}
    assert page == [*names[:2], names[8], *names[2:4]]
    assert [told[name].position for name in page] == [1, 2, 3, 4, 5]
    lost = [name for name in names if told[name].lost_at == pb.LOST_AT_RANKING]
    assert lost == names[4:8]
    if away:
        assert "pin have taken its place" in told[names[4]].reason
        for place, name in enumerate(page, start=1):
            assert f"it is the {ordinal(names.index(name) + 1)} of" in told[name].reason
            pinned = f"The site's rules pin it to position {place}." in told[name].reason
            assert pinned == (name == names[8])
        assert "pin it to position 20, after the page's end." in told[names[1]].reason
    if away != "ranking":  # then it is the place in the order of retrieval, whatever is pinned
        assert [told[name].position for name in lost] == [6, 7, 8, 9]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ExplainVideoRequest(video_id="a"), "request"),
        (pb.ExplainVideoRequest(request=SLATE), "video_id"),
        (asked("a", page_token="token"), "request.page_token"),
        (asked("a", viewer_id="x" * 129), "request.viewer_id"),
        (asked("a", surface=pb.SURFACE_UP_NEXT), "request.seed_video_id"),
        (
            asked("a", surface=pb.SURFACE_UP_NEXT, seed_video_id="nowhere"),
            "request.seed_video_id: 'nowhere'",
        ),
        (
            asked("a", filter=message(condition("colour", any_of=["red"]))),
            "request.filter.conditions[0].attribute",
        ),
        (asked("a", excluded_video_ids=["x"] * 1001), "request.excluded_video_ids"),
        (
            asked("a", context=pb.RequestContext(time_zone="Nowhere/Town")),
            "request.context.time_zone",
        ),
    ],
)
async def test_what_is_wrong_with_a_request_is_named_within_it(
    whole: RecommendationServiceAsyncStub, request_: pb.ExplainVideoRequest, field: str
) -> None:
    error = await failure_of(whole.ExplainVideo(request_))
    code = grpc.StatusCode.NOT_FOUND if "nowhere" in field else grpc.StatusCode.INVALID_ARGUMENT
    assert error.code() is code
    assert str(error.details()).startswith(field)
