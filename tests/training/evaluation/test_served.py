from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.builders.rpc import bare_server
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.releases.manifest import Manifest
from vireo.training.evaluation.run import Agreement, check_dataset, check_split
from vireo.training.evaluation.served import (
    ServedAnswer,
    Stack,
    ask_in_full,
    ask_viewers,
    check_features,
    counts,
    list_rows,
    staged_as,
    write_lists,
)
from vireo.training.evaluation.systems import TestViewers
from vireo.training.features.watches import Split
from vireo.v1 import recommendation_pb2, recommendation_pb2_grpc, release_pb2, release_pb2_grpc
from vireo.v1.viewer_pb2 import Degradation


class Gateway(recommendation_pb2_grpc.RecommendationServiceServicer):
    """Answers viewer v with "v/0", "v/1", ...; refuses viewer "bad", degrades viewer "half".

    "busy" is degraded the first time.
    """

    def __init__(self) -> None:
        self.in_flight = self.max_in_flight = 0
        self.asked: Counter[str] = Counter()
        self.moments: dict[str, set[int]] = {}

    async def Recommend(  # noqa: N802 (the RPC's name)
        self,
        request: recommendation_pb2.RecommendRequest,
        context: grpc.aio.ServicerContext[
            recommendation_pb2.RecommendRequest, recommendation_pb2.RecommendResponse
        ],
    ) -> recommendation_pb2.RecommendResponse:
        viewer = request.viewer_id
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self.asked[viewer] += 1
        self.moments.setdefault(viewer, set()).add(request.context.time.seconds)
        try:
            if viewer == "bad":
                await context.abort(grpc.StatusCode.UNAVAILABLE, "no pod left")
            degradations = []
            if viewer == "half":
                degradations = [Degradation.DEGRADATION_MIXED_RELEASES]
            elif viewer == "busy" and self.asked["busy"] == 1:
                degradations = [Degradation.DEGRADATION_RANKING_SKIPPED]
            response = recommendation_pb2.RecommendResponse(
                items=[
                    recommendation_pb2.SlateItem(video_id=f"{viewer}/{place}")
                    for place in range(request.page_size)
                ],
                release_id="r-2" if viewer == "half" else "r-1",
                degradations=degradations,
            )
            if request.explain:
                response.explanation.history_length = 7
            return response
        finally:
            self.in_flight -= 1


@pytest.fixture
async def gateway() -> AsyncIterator[tuple[Gateway, Stack]]:
    """A gateway that answers by rule, and how to call it."""
    servicer = Gateway()  # type: ignore[abstract]
    register = partial(
        recommendation_pb2_grpc.add_RecommendationServiceServicer_to_server, servicer
    )
    async with bare_server(register) as address:
        yield servicer, Stack(address, deadline=10, concurrency=4)


async def test_each_viewer_is_asked_for_a_hundred_and_answers_keep_their_order(
    gateway: tuple[Gateway, Stack],
) -> None:
    servicer, stack = gateway
    viewers = [f"viewer {number}" for number in range(30)]
    done: list[None] = []
    answers = await ask_viewers(stack, viewers, range(30), answered=lambda: done.append(None))
    assert [answer.viewer_id for answer in answers] == viewers
    assert answers[7].items == tuple(f"viewer 7/{place}" for place in range(100))
    assert len(done) == 30
    assert servicer.max_in_flight <= 4
    assert servicer.moments == {viewer: {moment} for moment, viewer in enumerate(viewers)}


async def test_a_stack_whose_features_include_held_out_watches_is_refused(
    gateway: tuple[Gateway, Stack],
) -> None:
    def viewers_of(**watched: int) -> TestViewers:
        none = np.zeros(len(watched), np.int64)
        rows = tuple(np.arange(count) for count in watched.values())
        return TestViewers(tuple(watched), none, none.astype(bool), rows, none, np.zeros(0))

    servicer, stack = gateway
    await check_features(stack, viewers_of(a=7, b=8))
    servicer.asked.clear()
    with pytest.raises(VireoError, match=r"viewer a has 7 watches instead of 6; omit --target"):
        await check_features(stack, viewers_of(d=9, c=8, b=7, a=6))
    assert set(servicer.asked) == {"a", "b", "c"}, "a sample is enough"


@pytest.mark.parametrize(
    ("others", "viewers", "asked", "short"),
    [
        (30, ("busy", "bad"), {"busy": 2, "bad": 3}, {"failed": 1, "asked_again": 2}),
        (30, ("bad",), {"bad": 2}, {"failed": 1}),  # since the last retry improved none
        (2, ("busy",), {"busy": 1}, {"degraded": 1}),  # of many viewers, load isn't a moment's
        (
            30,
            ("half",),  # is a fault
            {"half": 1},
            {"viewers": 31, "degraded": 1, "mixed_releases": 1, "other_release": 1, "short": 0},
        ),
    ],
)
async def test_a_few_failed_or_degraded_requests_are_retried_if_that_can_help(
    gateway: tuple[Gateway, Stack],
    others: int,
    viewers: tuple[str, ...],
    asked: dict[str, int],
    short: dict[str, int],
) -> None:
    servicer, stack = gateway
    every = [*map(str, range(others)), *viewers]
    answers = await ask_in_full(stack, every, range(len(every)))
    assert [answer.viewer_id for answer in answers] == every
    assert {viewer: servicer.asked[viewer] for viewer in viewers} == asked
    assert servicer.asked["0"] == 1
    assert all(len(moments) == 1 for moments in servicer.moments.values())
    found = counts(answers)
    assert {name: found[name] for name in short} == short
    if "bad" in viewers:
        failed = ServedAnswer("bad", failure="UNAVAILABLE: no pod left", asked=asked["bad"])
        assert answers[every.index("bad")] == failed
    if "busy" in viewers and asked["busy"] > 1:
        assert answers[every.index("busy")].degradations == ()


def test_lists_are_a_line_a_viewer_in_the_data_sets_own_ids(tmp_path: Path) -> None:
    answers = [ServedAnswer("0", ("é", "?", "007")), ServedAnswer("1", failure="UNAVAILABLE: ")]
    write_lists(tmp_path / "new" / "lists.jsonl", answers)
    lines = (tmp_path / "new" / "lists.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"user_id": "0", "items": ["é", "?", "007"]},
        {"user_id": "1", "items": []},
    ]
    rows = list_rows(answers, ["007", "é"])
    assert rows.shape == (2, 100)
    assert rows[0, :4].tolist() == [1, -1, 0, -1]
    assert (rows[1] == -1).all()
    with pytest.raises(VireoError, match=r"cannot write .*; give another --lists"):
        write_lists(tmp_path, [])


def test_only_a_release_of_this_data_set_and_split_is_tested(of_films: Manifest) -> None:
    check_dataset(of_films, "films")
    check_split(of_films, Split.of("last", "abc"))
    with pytest.raises(VireoError, match="r-1 was trained on films; evaluate with --data films"):
        check_dataset(of_films, "songs")
    with pytest.raises(VireoError, match="vireo evaluate served --data films"):
        check_dataset(of_films.model_copy(update={"holdout": "none"}), "films")
    for split in (Split.of("last", "other"), Split.of("none", "abc")):
        with pytest.raises(VireoError, match="may have seen"):
            check_split(of_films, split)


def test_the_newest_run_vouches_for_its_own_release(of_films: Manifest, tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.staged_release("films").mkdir(parents=True)
    of_films.write(home.staged_release("films"))
    assert staged_as(home, "films", "r-1") == of_films
    assert staged_as(home, "films", "r-9") is None


class Loading(release_pb2_grpc.ReleaseServiceServicer):
    """A gateway that has no release yet."""

    def GetServingRelease(  # noqa: N802 (the RPC's name)
        self, request: release_pb2.GetServingReleaseRequest, context: grpc.ServicerContext
    ) -> release_pb2.GetServingReleaseResponse:
        return release_pb2.GetServingReleaseResponse(state=release_pb2.RELEASE_STATE_LOADING)


def test_without_a_stack_or_its_release_evaluate_says_how_to_get_one() -> None:
    with pytest.raises(VireoError, match="start it with: vireo up"):
        Stack("127.0.0.1:1").serving_release()
    server = grpc.server(ThreadPoolExecutor(1))
    release_pb2_grpc.add_ReleaseServiceServicer_to_server(Loading(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(VireoError, match="vireo release publish"):
            replace(Stack(f"127.0.0.1:{port}"), deadline=10).serving_release()
    finally:
        server.stop(None).wait()


def test_lists_agree_if_their_top_ten_are_equal() -> None:
    offline = np.tile(np.arange(100), (4, 1))
    served = offline.copy()
    served[1, 10:] = -1
    served[2, :2] = [1, 0]
    served[3] = -1
    assert Agreement.of(served, offline) == Agreement(same_top_10=0.5, differing_viewers=2)
