"""What `vireo recommend`, `similar` and `explain` ask for, and print of an answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest
import structlog
from typer.testing import CliRunner

from tests.builders.gateway import FakeGateway, fake_gateway
from vireo.ops.cli.__main__ import app
from vireo.ops.cli.recommend import print_explanation, print_slate
from vireo.server.errors import VireoError
from vireo.server.rpc.errors import RpcError
from vireo.v1 import filter_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb

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


@pytest.fixture(autouse=True)
def _warnings_alone(logs_of_a_command: None) -> None:
    """Keep what the gateway, in this process, logs of slow calls off the command's output."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("warning"))


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


async def run(gateway: FakeGateway, *arguments: str) -> str:
    arguments = (*arguments, "--target", gateway.address)
    result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    if result.exception is not None:
        raise result.exception
    return result.stdout


async def test_pages_are_asked_for_by_token_until_there_are_no_more() -> None:
    async with fake_gateway() as gateway:
        gateway.answers = [
            pb.RecommendResponse(items=[pb.SlateItem(video_id=name)], next_page_token=token)
            for name, token in (("video-1", "one"), ("video-2", "two"), ("video-3", ""))
        ]
        printed = await run(gateway, "recommend", "1", "--pages", "9")
        assert [request.page_token for request in gateway.requests] == ["", "one", "two"]
    assert printed.index("video-1") < printed.index("video-2") < printed.index("video-3")


async def test_a_filter_is_json_of_its_message() -> None:
    asked = filter_pb2.Filter(
        conditions=[filter_pb2.Condition(attribute="tag", any_of=["a"])],
        none=[filter_pb2.Filter()],
    )
    async with fake_gateway() as gateway:
        await run(gateway, "recommend", "1", "--filter", FILTER)
        await run(gateway, "similar", "v", "--filter", FILTER, "--page-size", "3")
        [request], [similar] = gateway.requests, gateway.similar
    assert request.filter == asked
    assert similar == pb.SimilarVideosRequest(video_id="v", page_size=3, filter=asked)


@pytest.mark.parametrize("text", ["{", '{"condition": []}', '{"conditions": 3}', "3"])
async def test_a_filter_that_is_none_is_refused_before_anything_is_asked(text: str) -> None:
    async with fake_gateway() as gateway:
        for command in (("recommend", "1"), ("similar", "v")):
            with pytest.raises(VireoError, match=r"^--filter isn't a Filter message"):
                await run(gateway, *command, "--filter", text)
        assert not gateway.requests
        assert not gateway.similar


async def test_a_token_that_lacks_the_scope_is_told_which() -> None:
    async with fake_gateway() as gateway:
        gateway.answers = [RpcError(grpc.StatusCode.PERMISSION_DENIED, "not for you")]
        with pytest.raises(VireoError, match=r"not for you.* with the scope vireo\.read"):
            await run(gateway, "recommend", "1")


async def test_similar_videos_are_printed_with_their_degradations() -> None:
    async with fake_gateway() as gateway:
        printed = await run(gateway, "similar", "v")
        document = json.loads(await run(gateway, "similar", "v", "--json"))
        with pytest.raises(VireoError, match="'nowhere' is not in the release"):
            await run(gateway, "similar", "nowhere")
        with pytest.raises(VireoError, match="viewer_id: must be at least 1 bytes"):
            await run(gateway, "recommend", "")
    assert "degraded: ranking skipped" in printed
    assert "release r" in printed
    assert document["items"] == [{"videoId": "v", "position": 1}]


async def test_an_explanation_is_printed_with_ranks_scores_and_inputs() -> None:
    async with fake_gateway() as gateway:
        printed = await run(gateway, "explain", "1", "w", "--playing", "v", "--filter", FILTER)
        document = json.loads(await run(gateway, "explain", "1", "w", "--json"))
        [asked, _] = gateway.explained
    assert asked.video_id == "w"
    assert asked.request.viewer_id == "1"
    assert asked.request.seed_video_id == "v"
    assert asked.request.surface == pb.SURFACE_UP_NEXT
    assert asked.request.filter.conditions[0].attribute == "tag"
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


async def test_a_region_is_asked_for_by_each_command() -> None:
    region = ("--region", "CH")
    async with fake_gateway() as gateway:
        await run(gateway, "recommend", "1", *region)
        await run(gateway, "similar", "v", *region)
        await run(gateway, "explain", "1", "w", *region)
        contexts = [request.context for request in gateway.requests]
        contexts += [request.context for request in gateway.similar]
        contexts += [request.request.context for request in gateway.explained]
    assert contexts == 3 * [pb.RequestContext(region="CH")]
