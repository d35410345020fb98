"""Clients of every language get one slate through Envoy, of a plain and of a secured stack."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tests.builders.example_clients import BROWSER, CHECKOUT, PYTHON, ExampleClient, Target
from tests.builders.http_page import page
from tests.builders.secured_stack import ONE_POD_EACH, running_secured_stack
from tests.builders.stack import BIN, Stack, running_stack, stack_environment
from tests.builders.tiny_home import DATASET, VIEWER, WATCHED, build_tiny_home
from tests.builders.waiting import until
from vireo.ops.edge import Edge
from vireo.ops.stack.state import ProcessState
from vireo.server.home import Home
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.filter_pb2 import Condition, Filter
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

FOUR_CATS = ("--page-size", "4", "--tag", "cat")
CATS = Filter(conditions=[Condition(attribute="tag", any_of=["cat"])])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """One with a release that is published."""
    home = build_tiny_home(tmp_path_factory.mktemp("languages"))
    publish = [str(BIN / "vireo"), "release", "publish", "--data", DATASET]
    subprocess.run(publish, env=stack_environment(home.root), check=True)
    return home


@dataclass(frozen=True)
class Running:
    """A stack that runs, and how clients reach it."""

    stack: Stack
    target: Target


@pytest.fixture(scope="module", params=["plain", "secure"])
def running(request: pytest.FixtureRequest, home: Home) -> Iterator[Running]:
    """Two stacks, which serve the same release."""
    if request.param == "plain":
        with running_stack(home.root, settings=ONE_POD_EACH) as stack:
            yield Running(stack, Target(stack.edge))
    else:
        with running_secured_stack(home) as secured:
            scopes = ("vireo.read", "vireo.batch", "vireo.explain", "vireo.events")
            options = [option for scope in scopes for option in ("--scope", scope)]
            token = secured.vireo("tokens", "make", *options).strip()
            target = Target(secured.stack.edge, secured.folder.authority, token)
            yield Running(secured.stack, target)


@pytest.fixture(scope="module")
def edge(running: Running) -> Target:
    """Options of clients for the edge of the stack."""
    return running.target


@pytest.fixture(scope="module")
def stub(edge: Target) -> Iterator[RecommendationServiceStub]:
    with Edge(edge.address, edge.authority, edge.token or "").channel() as channel:
        yield RecommendationServiceStub(channel)


@pytest.fixture(scope="module")
def slates() -> list[Any]:
    """Those that all clients have got of both stacks."""
    return []


async def test_all_get_the_same_slate(
    client: ExampleClient, edge: Target, stub: RecommendationServiceStub, slates: list[Any]
) -> None:
    slate = (await client.recommend(edge, VIEWER)).slate
    expected = stub.Recommend(pb.RecommendRequest(viewer_id=VIEWER, page_size=20), timeout=60)
    assert len(expected.items) == 20
    for item in slate["items"]:
        # Some print the number that is stored, some the shortest that means it.
        item["score"] = np.float32(item["score"])
    assert slate == {
        "releaseId": "tiny-1",
        "degradations": [],
        "items": [
            {"videoId": item.video_id, "position": item.position, "score": np.float32(item.score)}
            for item in expected.items
        ],
    }
    slates.append(slate)
    assert slate == slates[0]


@pytest.mark.parametrize("running", ["plain"], indirect=True)
async def test_all_get_two_pages_of_the_videos_with_a_tag(
    client: ExampleClient, edge: Target, stub: RecommendationServiceStub
) -> None:
    pages = (await client.recommend(edge, VIEWER, *FOUR_CATS, "--pages", "2")).slates
    shown = [_shown(page) for page in pages]
    request = pb.RecommendRequest(viewer_id=VIEWER, page_size=4, filter=CATS)
    for names in shown:
        expected = stub.Recommend(request, timeout=60)
        assert names == [item.video_id for item in expected.items]
        assert all(int(name.removeprefix("video-")) % 3 == 0 for name in names)
        request.page_token = expected.next_page_token
    assert len({name for names in shown for name in names}) == 8


@pytest.mark.parametrize("running", ["plain"], indirect=True)
async def test_all_tell_similar_videos_and_why_a_video_is_on_the_page_or_is_not(
    grpc_client: ExampleClient, edge: Target, stub: RecommendationServiceStub
) -> None:
    request = pb.RecommendRequest(viewer_id=VIEWER, page_size=4, filter=CATS)
    second = stub.Recommend(request, timeout=60).items[1]
    # Side by side, since most of the time it takes to start them.
    answers = await asyncio.gather(
        grpc_client.run(edge, [], "--similar", "video-5", *FOUR_CATS),
        grpc_client.run(edge, [VIEWER], "--why", second.video_id, *FOUR_CATS),
        grpc_client.run(edge, [VIEWER], "--why", WATCHED[0], *FOUR_CATS),
    )
    similar, on_page, lost = (answer.slate for answer in answers)

    like = pb.SimilarVideosRequest(video_id="video-5", page_size=4, filter=CATS)
    expected = stub.SimilarVideos(like, timeout=60)
    assert _shown(similar) == [item.video_id for item in expected.items]
    assert (len(_shown(similar)), similar["releaseId"]) == (4, "tiny-1")

    assert "lostAt" not in on_page
    assert (on_page["position"], np.float32(on_page["score"])) == (2, np.float32(second.score))
    why = pb.ExplainVideoRequest(request=request, video_id=WATCHED[0])
    assert lost == {
        "releaseId": "tiny-1",
        "degradations": [],
        "videoId": WATCHED[0],
        "lostAt": "LOST_AT_BLOCKED",
        "reason": stub.ExplainVideo(why, timeout=60).reason,
        "position": 0,
        "score": 0,
    }


# The others have theirs of a gateway that ends streams.
@pytest.mark.parametrize("example", [PYTHON, BROWSER], ids=lambda example: example.name)
@pytest.mark.parametrize("running", ["plain"], indirect=True)
async def test_a_batch_has_the_slate_of_each_viewer(
    example: ExampleClient, edge: Target, stub: RecommendationServiceStub
) -> None:
    example.build()
    slates = (await example.run(edge, ["of no history", VIEWER], *FOUR_CATS)).slates
    assert [slate["viewerId"] for slate in slates] == ["of no history", VIEWER]
    for slate in slates:
        request = pb.RecommendRequest(viewer_id=slate["viewerId"], page_size=4, filter=CATS)
        expected = stub.Recommend(request, timeout=60)
        assert _shown(slate) == [item.video_id for item in expected.items]


@pytest.mark.parametrize("running", ["plain"], indirect=True)
async def test_a_batch_outlives_its_gateway(grpc_client: ExampleClient, running: Running) -> None:
    [gateway] = [each for each in running.stack.state().processes if each.name == "gateway-1"]
    before, viewers = _batch_slates(gateway), [str(number) for number in range(200)]
    run = grpc_client.run(running.target, viewers, "--page-size", "5")
    batch = asyncio.create_task(run)
    await until(lambda: _batch_slates(gateway) > before, seconds=60)
    assert not batch.done()
    os.kill(running.stack.pid(gateway.name), signal.SIGKILL)
    assert [slate["viewerId"] for slate in (await batch).slates] == viewers


def _batch_slates(gateway: ProcessState) -> float:
    """Return how many slates of batches it has made since it started."""
    found = re.search(r"^vireo_batch_slates_total (\S+)$", page(gateway.port + 1000)[1], re.M)
    return float(found[1]) if found else 0


def _shown(slate: Any) -> list[str]:
    return [item["videoId"] for item in slate["items"]]


async def test_what_all_clients_record_is_in_the_next_slates(
    client: ExampleClient, edge: Target, stub: RecommendationServiceStub
) -> None:
    viewer = f"of {client.name}, {edge.token is None}"

    def videos() -> list[str]:
        asked = pb.RecommendRequest(viewer_id=viewer, page_size=20)
        return [item.video_id for item in stub.Recommend(asked, timeout=60).items]

    played = videos()[0]
    answer = await client.recommend(edge, viewer, "--played", played)
    assert len(answer.slate["items"]) == 20
    await until(lambda: played not in videos(), seconds=60)


async def test_all_clients_report_invalid_requests(
    client: ExampleClient, edge: Target, stub: RecommendationServiceStub
) -> None:
    answer = await client.recommend(edge, "", "--page-size", "501")
    with pytest.raises(grpc.RpcError) as caught:
        stub.Recommend(pb.RecommendRequest(page_size=501), timeout=60)
    status = rpc_status.from_call(caught.value)  # type: ignore[no-untyped-call]
    assert status is not None
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    assert (answer.code, answer.output) == (1, "")
    assert answer.errors.splitlines() == [
        f"INVALID_ARGUMENT: {status.message}",
        *(f"  {each.field}: {each.description}" for each in bad.field_violations),
    ]
    assert {each.field for each in bad.field_violations} == {"viewer_id", "page_size"}


@pytest.mark.parametrize("running", ["secure"], indirect=True)
async def test_all_clients_report_rejected_tokens(client: ExampleClient, edge: Target) -> None:
    forged = Target(edge.address, edge.authority, "rubbish")
    for refused in (forged, Target(edge.address, edge.authority)):
        answer = await client.recommend(refused, VIEWER)
        assert (answer.code, answer.output) == (1, "")
        assert answer.errors.startswith("UNAUTHENTICATED: ")


def test_the_readmes_have_the_commands_that_these_tests_run(client: ExampleClient) -> None:
    document = (CHECKOUT / client.document).read_text()
    assert f"{' '.join(client.command)} 127.0.0.1:8080 1" in document
    if client.goal is not None:
        assert f"make clients-env clients-{client.goal}\n" in document
