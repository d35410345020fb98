from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import numpy as np
import pytest

from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.releases.manifest import FeatureSchema, Manifest
from vireo.server.releases.weights import ScoreWeights
from vireo.training.evaluation.chain import TestViewers
from vireo.training.evaluation.commands import staged_as, stored_manifest
from vireo.training.evaluation.served import (
    Agreement,
    ServedAnswer,
    ask_in_full,
    ask_viewers,
    check_dataset,
    check_features,
    check_split,
    counts,
    list_rows,
    serving_release,
    write_lists,
)
from vireo.training.features.watches import Split
from vireo.v1 import recommendation_pb2, recommendation_pb2_grpc, release_pb2, release_pb2_grpc
from vireo.v1.viewer_pb2 import Degradation


def manifest(**changes: object) -> Manifest:
    values = Manifest(
        release_id="r-1",
        created_at=datetime(2024, 1, 1, tzinfo=UTC),
        dataset="films",
        code_commit="unknown",
        data_fingerprint="abc",
        holdout="last",
        feature_schema=FeatureSchema.ours(history_limit=5, vector_size=4),
        score_weights=ScoreWeights(),
        metrics={},
        files={},
    )
    return values.model_copy(update=changes)


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
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self.asked[request.viewer_id] += 1
        self.moments.setdefault(request.viewer_id, set()).add(request.context.time.seconds)
        try:
            if request.viewer_id == "bad":
                await context.abort(grpc.StatusCode.UNAVAILABLE, "no pod left")
            items = [
                recommendation_pb2.SlateItem(video_id=f"{request.viewer_id}/{place}")
                for place in range(request.page_size)
            ]
            half = request.viewer_id == "half"
            degraded = (
                Degradation.DEGRADATION_MIXED_RELEASES
                if half
                else Degradation.DEGRADATION_RANKING_SKIPPED
            )
            less = half or (request.viewer_id == "busy" and self.asked["busy"] == 1)
            return recommendation_pb2.RecommendResponse(
                items=items,
                release_id="r-2" if half else "r-1",
                degradations=[degraded] if less else [],
                explanation=recommendation_pb2.Explanation(history_length=7)
                if request.explain
                else None,
            )
        finally:
            self.in_flight -= 1


@pytest.fixture
async def gateway() -> AsyncIterator[tuple[Gateway, str]]:
    """A gateway that answers by rule, and its host:port."""
    server = grpc.aio.server()
    servicer = Gateway()  # type: ignore[abstract]
    recommendation_pb2_grpc.add_RecommendationServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer, f"127.0.0.1:{port}"
    await server.stop(None)


async def test_each_viewer_is_asked_for_a_hundred_and_answers_keep_their_order(
    gateway: tuple[Gateway, str],
) -> None:
    servicer, target = gateway
    viewers = [f"viewer {number}" for number in range(30)]
    done: list[None] = []
    answers = await ask_viewers(
        target, viewers, range(30), concurrency=4, deadline=10, answered=lambda: done.append(None)
    )
    assert [answer.viewer_id for answer in answers] == viewers
    assert answers[7].items == tuple(f"viewer 7/{place}" for place in range(100))
    assert len(done) == 30
    assert servicer.max_in_flight <= 4
    assert servicer.moments == {viewer: {moment} for moment, viewer in enumerate(viewers)}


async def test_a_stack_whose_features_include_held_out_watches_is_refused(
    gateway: tuple[Gateway, str],
) -> None:
    servicer, target = gateway
    await check_features(target, viewers_of({"a": 7, "b": 8}), deadline=10)
    servicer.asked.clear()
    with pytest.raises(VireoError, match=r"viewer a has 7 watches instead of 6; omit --target"):
        await check_features(target, viewers_of({"d": 9, "c": 8, "b": 7, "a": 6}), deadline=10)
    assert set(servicer.asked) == {"a", "b", "c"}, "a sample is enough"


def viewers_of(watched: dict[str, int]) -> TestViewers:
    """Return test viewers who have watched these numbers of videos."""
    none = np.zeros(len(watched), np.int64)
    rows = tuple(np.arange(count) for count in watched.values())
    return TestViewers(tuple(watched), none, none.astype(bool), rows, none)


async def test_failures_and_degraded_responses_are_counted(gateway: tuple[Gateway, str]) -> None:
    viewers = ["a", "bad", "half"]
    answers = await ask_viewers(gateway[1], viewers, [5, 6, 7], concurrency=2, deadline=10)
    assert answers[1] == ServedAnswer("bad", failure="UNAVAILABLE: no pod left")
    assert counts(answers) == {
        "viewers": 3,
        "failed": 1,
        "degraded": 1,
        "mixed_releases": 1,
        "other_release": 1,
        "short": 0,
        "asked_again": 0,
    }


async def test_a_few_failed_or_degraded_requests_are_retried(
    gateway: tuple[Gateway, str],
) -> None:
    servicer, target = gateway
    viewers = [*map(str, range(30)), "busy", "bad"]
    answers = await ask_in_full(target, viewers, range(32), concurrency=5, deadline=10)
    assert servicer.moments["busy"] == {30}
    assert [answer.viewer_id for answer in answers] == viewers
    assert answers[30].degradations == ()
    assert answers[31].failure == "UNAVAILABLE: no pod left"
    assert (servicer.asked["0"], servicer.asked["busy"], servicer.asked["bad"]) == (1, 2, 3)
    found = counts(answers)
    assert (found["failed"], found["degraded"], found["asked_again"]) == (1, 0, 2)


async def test_viewers_are_not_retried_if_that_cannot_help(
    gateway: tuple[Gateway, str],
) -> None:
    servicer, target = gateway
    viewers = [*map(str, range(30)), "bad"]
    await ask_in_full(target, viewers, range(31), concurrency=5, deadline=10)
    assert servicer.asked["bad"] == 2


async def test_degradations_of_many_viewers_are_reported_and_not_retried(
    gateway: tuple[Gateway, str],
) -> None:
    servicer, target = gateway
    viewers = ["a", "b", "busy"]
    answers = await ask_in_full(target, viewers, range(3), concurrency=5, deadline=10)
    assert servicer.asked["busy"] == 1
    assert counts(answers)["degraded"] == 1


async def test_a_slate_of_two_releases_is_a_fault_and_not_retried(
    gateway: tuple[Gateway, str],
) -> None:
    servicer, target = gateway
    viewers = [*map(str, range(30)), "half"]
    answers = await ask_in_full(target, viewers, range(31), concurrency=5, deadline=10)
    assert servicer.asked["half"] == 1
    assert counts(answers)["mixed_releases"] == 1


def test_lists_are_a_line_a_viewer_in_the_data_sets_own_ids(tmp_path: Path) -> None:
    answers = [ServedAnswer("0", ("é", "007")), ServedAnswer("1", failure="UNAVAILABLE: ")]
    write_lists(tmp_path / "new" / "lists.jsonl", answers)
    lines = (tmp_path / "new" / "lists.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"user_id": "0", "items": ["é", "007"]},
        {"user_id": "1", "items": []},
    ]


def test_a_file_that_cant_be_written_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(VireoError, match=r"cannot write .*; give another --lists"):
        write_lists(tmp_path, [])


def test_ids_become_rows_and_unknown_ones_misses() -> None:
    rows = list_rows([ServedAnswer("0", ("b", "?", "a")), ServedAnswer("1")], ["a", "b"])
    assert rows.shape == (2, 100)
    assert rows[0, :4].tolist() == [1, -1, 0, -1]
    assert (rows[1] == -1).all()


def test_a_release_of_another_data_set_is_refused() -> None:
    with pytest.raises(VireoError, match="r-1 was trained on films; evaluate with --data films"):
        check_dataset(manifest(), "songs")


def test_a_release_that_has_seen_every_watch_is_refused() -> None:
    with pytest.raises(VireoError, match="vireo evaluate served --data films"):
        check_dataset(manifest(holdout="none"), "films")


@pytest.mark.parametrize(
    "split",
    [
        Split.of("last", "other"),
        Split.of("none", "abc"),
    ],
)
def test_a_release_of_another_split_is_refused(split: Split) -> None:
    with pytest.raises(VireoError, match="may have seen"):
        check_split(manifest(), split)


def test_a_release_of_this_split_is_taken() -> None:
    check_dataset(manifest(), "films")
    check_split(manifest(), Split.of("last", "abc"))


def test_the_staged_release_vouches_for_itself(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.staged_release("films").mkdir(parents=True)
    manifest().write(home.staged_release("films"))
    assert staged_as(home, "films", "r-1") == manifest()
    assert staged_as(home, "films", "r-9") is None


def test_an_unknown_release_without_a_store_names_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIREO_HOME", str(tmp_path))
    monkeypatch.delenv("VIREO_S3_ENDPOINT", raising=False)
    with pytest.raises(VireoError, match="set VIREO_S3_ENDPOINT"):
        stored_manifest(Home(tmp_path), "r-9")


def test_without_a_stack_evaluate_says_how_to_start_one() -> None:
    with pytest.raises(VireoError, match="start it with: vireo up"):
        serving_release("127.0.0.1:1", deadline=5)


class Loading(release_pb2_grpc.ReleaseServiceServicer):
    """A gateway that has no release yet."""

    def GetServingRelease(  # noqa: N802 (the RPC's name)
        self, request: release_pb2.GetServingReleaseRequest, context: grpc.ServicerContext
    ) -> release_pb2.GetServingReleaseResponse:
        return release_pb2.GetServingReleaseResponse(state=release_pb2.RELEASE_STATE_LOADING)


def test_a_stack_without_a_release_says_how_to_publish_one() -> None:
    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(1))
    release_pb2_grpc.add_ReleaseServiceServicer_to_server(Loading(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(VireoError, match="vireo release publish"):
            serving_release(f"127.0.0.1:{port}", deadline=10)
    finally:
        server.stop(None).wait()


def test_lists_agree_if_their_top_ten_are_equal() -> None:
    offline = np.tile(np.arange(100), (4, 1))
    served = offline.copy()
    served[1, 10:] = -1
    served[2, :2] = [1, 0]
    served[3] = -1
    assert Agreement.of(served, offline) == Agreement(same_top_10=0.5, differing_viewers=2)
