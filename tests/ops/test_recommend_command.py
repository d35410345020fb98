"""What `vireo recommend`, `similar` and `explain` ask for, and print of an answer."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest

from tests.builders.commands import vireo
from tests.builders.fake_stack import EXPLANATION, asked, stack
from vireo.ops.cli.recommend import print_explanation, print_slate
from vireo.server.errors import VireoError
from vireo.v1 import filter_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo_client.testing import FakeStack

__all__ = ["stack"]

POPULAR = viewer_pb2.DEGRADATION_POPULAR_FALLBACK
SOURCES = pb.Explanation(
    sources=[
        pb.SourceReport(source=viewer_pb2.SOURCE_TWO_TOWER, proposed=300),
        pb.SourceReport(source=viewer_pb2.SOURCE_EASE, proposed=45),
    ],
    candidates=300,
)
RULES = [pb.AppliedRule(name="rights", count=7), pb.AppliedRule(name="premiere")]
ITEM = pb.SlateItem(video_id="7", sources=[viewer_pb2.SOURCE_EASE, viewer_pb2.SOURCE_FRESH])


@pytest.mark.parametrize(
    ("slate", "said", "unsaid"),
    [
        ({"items": [ITEM]}, "ease, fresh", "proposed by"),
        ({"explanation": SOURCES}, "proposed by: two tower 300, ease 45", "degraded"),
        (
            {"explanation": pb.Explanation(rules=RULES)},
            "rules, and videos that each concerned: rights 7, premiere 0",
            "degraded",
        ),
        (
            {"explanation": pb.Explanation(filter_share=0.125)},
            "is met by 12.50% of the videos",
            "degraded",
        ),
        (
            {"filter_unmet": True},
            "no video of the catalogue meets the filter and the site's rules",
            "popular list",
        ),
        (
            {"filter_unmet": True, "degradations": [POPULAR]},
            "no video of the popular list meets",
            "of the catalogue",
        ),
        # A viewer whose features could not be read is no cold start.
        ({}, "a cold start", "filter"),
        (
            {"degradations": [viewer_pb2.DEGRADATION_FEATURES_MISSING]},
            "degraded: features missing",
            "a cold start",
        ),
    ],
)
def test_a_slate_says_what_it_has_and_nothing_else(
    slate: dict[str, Any], said: str, unsaid: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_slate(pb.RecommendResponse(**slate))
    printed = capsys.readouterr().out
    assert said in printed
    assert unsaid not in printed


def test_an_unknown_degradation_is_printed_by_its_number(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = pb.RecommendResponse.FromString(b"\x22\x01\x63")  # degradations: 99
    print_slate(answer)
    assert "degraded: unknown kind 99" in capsys.readouterr().out


FILTER = '{"conditions": [{"attribute": "tag", "anyOf": ["a"]}], "none": [{}]}'


def run(stack: FakeStack, *arguments: str) -> str:
    result = vireo(*arguments, "--target", stack.target)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_pages_are_asked_for_by_token_until_there_are_no_more(stack: FakeStack) -> None:
    stack.answer(
        pb.RecommendResponse(items=[pb.SlateItem(video_id="video-1")], next_page_token="one"),
        pb.RecommendResponse(items=[pb.SlateItem(video_id="video-2")], next_page_token="two"),
        pb.RecommendResponse(items=[pb.SlateItem(video_id="video-3")]),
    )
    printed = run(stack, "recommend", "1", "--pages", "9")
    assert [request.page_token for request in stack.requests] == ["", "one", "two"]
    assert printed.index("video-1") < printed.index("video-2") < printed.index("video-3")


def test_a_filter_is_json_of_its_message(stack: FakeStack) -> None:
    wanted = filter_pb2.Filter(
        conditions=[filter_pb2.Condition(attribute="tag", any_of=["a"])],
        none=[filter_pb2.Filter()],
    )
    run(stack, "recommend", "1", "--filter", FILTER)
    run(stack, "similar", "v", "--filter", FILTER, "--page-size", "3")
    [request] = asked(stack, pb.RecommendRequest)
    [similar] = asked(stack, pb.SimilarVideosRequest)
    assert request.filter == wanted
    assert similar == pb.SimilarVideosRequest(video_id="v", page_size=3, filter=wanted)


@pytest.mark.parametrize("text", ["{", '{"condition": []}', '{"conditions": 3}', "3"])
def test_a_filter_that_is_none_is_refused_before_anything_is_asked(
    stack: FakeStack, text: str
) -> None:
    for command in (("recommend", "1"), ("similar", "v")):
        with pytest.raises(VireoError, match=r"^--filter isn't a Filter message"):
            run(stack, *command, "--filter", text)
    assert not stack.requests


def test_a_token_that_lacks_the_scope_is_told_which(stack: FakeStack) -> None:
    stack.fail(grpc.StatusCode.PERMISSION_DENIED, "not for you")
    with pytest.raises(VireoError, match=r"not for you.* with the scope vireo\.read"):
        run(stack, "recommend", "1")


def test_similar_videos_are_printed_with_their_degradations(stack: FakeStack) -> None:
    similar = pb.SimilarVideosResponse(
        items=[pb.SlateItem(video_id="v", position=1)],
        release_id="r",
        degradations=[viewer_pb2.DEGRADATION_RANKING_SKIPPED],
    )
    stack.answer(similar, similar)
    printed = run(stack, "similar", "v")
    document = json.loads(run(stack, "similar", "v", "--json"))
    assert "degraded: ranking skipped" in printed
    assert "release r" in printed
    assert document["items"] == [{"videoId": "v", "position": 1}]


def test_what_a_stack_refuses_is_told_with_its_words(stack: FakeStack) -> None:
    stack.fail(grpc.StatusCode.NOT_FOUND, "video_id: 'nowhere' is not in the release")
    with pytest.raises(VireoError, match="'nowhere' is not in the release"):
        run(stack, "similar", "nowhere")
    stack.fail(grpc.StatusCode.INVALID_ARGUMENT, "viewer_id: must be at least 1 bytes")
    with pytest.raises(VireoError, match="viewer_id: must be at least 1 bytes"):
        run(stack, "recommend", "")


def test_an_explanation_is_printed_with_ranks_scores_and_inputs(stack: FakeStack) -> None:
    stack.answer(EXPLANATION, EXPLANATION)
    printed = run(stack, "explain", "1", "w", "--playing", "v", "--filter", FILTER)
    document = json.loads(run(stack, "explain", "1", "w", "--json"))
    explained, _ = asked(stack, pb.ExplainVideoRequest)
    assert explained.video_id == "w"
    assert explained.request.viewer_id == "1"
    assert explained.request.seed_video_id == "v"
    assert explained.request.surface == pb.SURFACE_UP_NEXT
    assert explained.request.filter.conditions[0].attribute == "tag"
    words = " ".join(printed.split())
    assert "lost at retrieval: No source proposed it: two_tower ranked it 812th" in words
    assert "two tower" in printed
    assert "812" in printed
    assert "ranking features: content_match" in words
    assert "task: watch" in words
    assert "release r; 450 candidates" in printed
    assert document["lostAt"] == "LOST_AT_RETRIEVAL"


def test_a_video_on_the_page_is_printed_with_its_place(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_explanation(pb.ExplainVideoResponse(position=3, reason="It is good."))
    assert capsys.readouterr().out.startswith("on the page at 3: It is good.\n")


def test_a_region_is_asked_for_by_each_command(stack: FakeStack) -> None:
    for command in (("recommend", "1"), ("similar", "v"), ("explain", "1", "w")):
        run(stack, *command, "--region", "CH")
    recommend, similar, explain = stack.requests
    for request in (recommend, similar, explain.request):
        assert request.context.region == "CH"
