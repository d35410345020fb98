"""Which answers of inner pods are garbage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from vireo.v1 import candidate_pb2, ranking_pb2

from server.features.keys import video_key, video_keys
from server.gateway.stages.check import BadAnswerError, check_candidates, check_ranked

NAMES = ["a", "b", "c", "d"]
KEYS = video_keys(NAMES).tolist()
NAN, INFINITY = float("nan"), float("inf")
Change = Callable[[Any], object]


def found() -> candidate_pb2.RetrieveCandidatesResponse:
    return candidate_pb2.RetrieveCandidatesResponse(
        keys=KEYS,
        scores=[4, 3, 2, 1],
        co_watch_scores=[0] * 4,
        ease_scores=[-1] * 4,
        source_masks=[2, 4, 2, 8],
        ids=NAMES[:2],
        release_id="r",
    )


def ranked() -> ranking_pb2.RankCandidatesResponse:
    return ranking_pb2.RankCandidatesResponse(
        keys=[KEYS[2], KEYS[1]],
        ids=["c", "b"],
        scores=[0.5, 0.25],
        watch_scores=[0.5, 0.25],
        like_scores=[1, 0],
        source_masks=[2, 4],
        release_id="r",
    )


def checked_candidates(answer: candidate_pb2.RetrieveCandidatesResponse) -> None:
    request = candidate_pb2.RetrieveCandidatesRequest(count=4, page_size=2)
    check_candidates(answer, request, video_keys(["w", "x"]))


def checked_ranked(answer: ranking_pb2.RankCandidatesResponse, release_id: str = "r") -> None:
    request = ranking_pb2.RankCandidatesRequest(
        keys=KEYS, source_masks=[2, 4, 2, 8], page_size=2, release_id=release_id
    )
    check_ranked(answer, request)


def replaced(field: str, place: int, value: object) -> Change:
    return lambda answer: getattr(answer, field).__setitem__(place, value)


def shortened(field: str) -> Change:
    return lambda answer: getattr(answer, field).pop()


def cleared(field: str) -> Change:
    return lambda answer: answer.ClearField(field)


def test_good_answers_pass() -> None:
    checked_candidates(found())
    checked_candidates(candidate_pb2.RetrieveCandidatesResponse(release_id="r"))
    checked_ranked(ranked())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (replaced("scores", 1, NAN), "scores has a value that isn't finite"),
        (replaced("co_watch_scores", 3, INFINITY), "co_watch_scores has a value"),
        (replaced("ease_scores", 0, -INFINITY), "ease_scores has a value"),
        (shortened("scores"), "scores has 3 values instead of 4"),
        (cleared("ease_scores"), "ease_scores has 0 values instead of 4"),
        (shortened("source_masks"), "source_masks has 3"),
        (shortened("keys"), "scores has 4 values instead of 3"),
        (lambda answer: answer.keys.append(1), "5 candidates where 4 were asked for"),
        (replaced("keys", 3, KEYS[2]), "a key occurs twice"),
        (replaced("keys", 3, video_key("x")), "a watched, excluded or playing video"),
        (replaced("ids", 0, "z"), "an id isn't that of its key"),
        (replaced("ids", 1, ""), "an id isn't that of its key"),
        (shortened("ids"), "ids has 1 values instead of 2"),
        (cleared("release_id"), "release_id is missing"),
    ],
)
def test_candidates_that_break_the_contract_are_garbage(change: Change, reason: str) -> None:
    answer = found()
    change(answer)
    with pytest.raises(BadAnswerError, match=reason):
        checked_candidates(answer)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (replaced("scores", 1, NAN), "scores has a value that isn't finite"),
        (replaced("scores", 0, INFINITY), "scores has a value that isn't finite"),
        (replaced("watch_scores", 1, NAN), "watch_scores has a value that is no probability"),
        (replaced("watch_scores", 1, 1.5), "watch_scores has a value that is no probability"),
        (replaced("like_scores", 0, -0.5), "like_scores has a value that is no probability"),
        (shortened("scores"), "scores has 1 values instead of 2"),
        (cleared("like_scores"), "like_scores has 0 values instead of 2"),
        (shortened("keys"), "keys has 1 values instead of 2"),
        (shortened("ids"), "ids has 1 values instead of 2"),
        (shortened("source_masks"), "source_masks has 1"),
        (lambda answer: answer.titles.append("T"), "titles has 1 values instead of 0"),
        (replaced("keys", 0, KEYS[1]), "a key occurs twice"),
        (replaced("keys", 0, video_key("z")), "a key was not among the candidates"),
        (replaced("source_masks", 0, 4), "source_masks are not those that were sent"),
        (replaced("ids", 0, "z"), "an id isn't that of its key"),
        (replaced("ids", 0, ""), "a video that the release knows has no id"),
        (cleared("release_id"), "release_id is missing"),
    ],
)
def test_a_ranking_that_breaks_the_contract_is_garbage(change: Change, reason: str) -> None:
    answer = ranked()
    change(answer)
    with pytest.raises(BadAnswerError, match=reason):
        checked_ranked(answer)


def test_another_release_may_lack_as_many_ids_as_it_says() -> None:
    answer = ranked()
    answer.ids[1] = ""
    with pytest.raises(BadAnswerError, match="has no id"):
        checked_ranked(answer, release_id="another")
    answer.unknown_candidates = 1
    checked_ranked(answer, release_id="another")
    with pytest.raises(BadAnswerError, match="has no id"):
        checked_ranked(answer)


def test_a_releases_number_of_candidates_is_bounded() -> None:
    request = candidate_pb2.RetrieveCandidatesRequest(count=3, page_size=2)
    with pytest.raises(BadAnswerError, match="4 candidates where 3 were asked for"):
        check_candidates(found(), request, np.array([1]))
    request.count_of_release = True
    check_candidates(found(), request, np.array([1]))
    answer = found()
    answer.keys.extend(range(2000))
    with pytest.raises(BadAnswerError, match="2004 candidates where 2000 were asked for"):
        check_candidates(answer, request, np.array([1]))


def test_long_histories_are_held_against_the_candidates_too() -> None:
    request = candidate_pb2.RetrieveCandidatesRequest(count=4, page_size=2)
    others = np.arange(10_000, dtype=np.int64)
    check_candidates(found(), request, others)
    with pytest.raises(BadAnswerError, match="watched"):
        check_candidates(found(), request, np.append(others, KEYS[0]))
