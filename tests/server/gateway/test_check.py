"""Which answers of inner pods are garbage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.builders.columns import score_columns
from vireo.server.columns import BadColumnError
from vireo.server.features.keys import video_key, video_keys
from vireo.server.gateway.check import BadAnswerError, check_candidates, check_ranked
from vireo.server.signals import NEW
from vireo.v1 import candidate_pb2, ranking_pb2, viewer_pb2
from vireo.v1.viewer_pb2 import ViewerFeatures

NAMES = ["a", "b", "c", "d"]
KEYS = video_keys(NAMES).tolist()
NAN, INFINITY = float("nan"), float("inf")
Change = Callable[[Any], object]


def found() -> candidate_pb2.RetrieveCandidatesResponse:
    return candidate_pb2.RetrieveCandidatesResponse(
        keys=KEYS,
        scores=score_columns([4, 3, 2, 1]),
        source_masks=[2, 4, 2, 8],
        ids=NAMES[:2],
        release_id="r",
    )


def ranked() -> ranking_pb2.RankCandidatesResponse:
    return ranking_pb2.RankCandidatesResponse(
        keys=[KEYS[2], KEYS[1]],
        ids=["c", "b"],
        scores=[0.5, 0.25],
        task_scores=[
            viewer_pb2.ScoreColumn(name="watch", values=[0.5, 0.25]),
            viewer_pb2.ScoreColumn(name="like", values=[1, 0]),
        ],
        source_masks=[2, 4],
        release_id="r",
    )


def checked_candidates(answer: candidate_pb2.RetrieveCandidatesResponse) -> None:
    request = candidate_pb2.RetrieveCandidatesRequest(
        viewer=ViewerFeatures(watched_keys=video_keys(["w", "x"])), count=4, page_size=2
    )
    check_candidates(answer, request)


def checked_ranked(
    answer: ranking_pb2.RankCandidatesResponse, release_id: str = "r", third: int = 2
) -> None:
    request = ranking_pb2.RankCandidatesRequest(
        keys=KEYS, source_masks=[2, 4, third, 8], page_size=2, release_id=release_id
    )
    check_ranked(answer, request)


def replaced(field: str, place: int, value: object) -> Change:
    return lambda answer: getattr(answer, field).__setitem__(place, value)


def in_column(name: str, place: int, value: float) -> Change:
    def change(answer: Any) -> None:
        columns = answer.task_scores if hasattr(answer, "task_scores") else answer.scores
        [column] = [column for column in columns if column.name == name]
        column.values[place] = value

    return change


def shortened(field: str) -> Change:
    return lambda answer: getattr(answer, field).pop()


def cleared(field: str) -> Change:
    return lambda answer: answer.ClearField(field)


def test_good_answers_pass() -> None:
    checked_candidates(found())
    checked_candidates(candidate_pb2.RetrieveCandidatesResponse(release_id="r"))
    checked_ranked(ranked())


def test_columns_may_be_absent_or_of_a_later_build() -> None:
    candidates = found()
    del candidates.scores[1:]
    candidates.scores.add(name="of a later build", values=[1, 2, 3, 4])
    checked_candidates(candidates)
    answer = ranked()
    del answer.task_scores[1:]
    answer.task_scores.add(name="of a later build", values=[1, 2])
    checked_ranked(answer)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (in_column("two_tower", 1, NAN), "two_tower has a value that isn't finite"),
        (in_column("two_tower", 0, -INFINITY), "two_tower has a value that isn't finite"),
        (in_column("co_watch", 3, -5.0), "co_watch has a value outside"),
        (lambda answer: answer.scores[0].values.pop(), "two_tower has 3 values instead of 4"),
        (lambda answer: answer.scores.pop(0), "two_tower is missing"),
        (shortened("source_masks"), "source_masks has 3"),
        (shortened("keys"), "two_tower has 4 values instead of 3"),
        (lambda answer: answer.keys.append(1), "5 candidates, but 4 were requested"),
        (replaced("keys", 3, KEYS[2]), "a key occurs twice"),
        (replaced("keys", 3, video_key("x")), "a watched, hidden, excluded or playing video"),
        (replaced("ids", 0, "z"), "an id isn't that of its key"),
        (shortened("ids"), "ids has 1 values instead of 2"),
        (cleared("release_id"), "release_id is missing"),
        (
            lambda answer: answer.explained.scores.add(name="two_tower", values=[NAN]),
            "two_tower has a value that isn't finite",
        ),
    ],
)
def test_candidates_that_break_the_contract_are_garbage(change: Change, reason: str) -> None:
    answer = found()
    change(answer)
    with pytest.raises((BadAnswerError, BadColumnError), match=reason):
        checked_candidates(answer)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (replaced("scores", 1, NAN), "scores has a value that isn't finite"),
        (replaced("scores", 0, INFINITY), "scores has a value that isn't finite"),
        (in_column("watch", 1, NAN), "watch has a value that isn't finite"),
        (in_column("watch", 1, 1.5), "watch has a value outside 0 to 1"),
        (in_column("like", 0, -0.5), "like has a value outside 0 to 1"),
        (shortened("scores"), "scores has 1 values instead of 2"),
        (lambda answer: answer.task_scores[1].values.pop(), "like has 1 values instead of 2"),
        (cleared("task_scores"), "watch is missing"),
        (shortened("keys"), "keys has 1 values instead of 2"),
        (shortened("ids"), "ids has 1 values instead of 2"),
        (shortened("source_masks"), "source_masks has 1"),
        (replaced("source_masks", 0, 6), "source_masks differ from those of the candidates"),
        (lambda answer: answer.titles.append("T"), "titles has 1 values instead of 0"),
        (replaced("keys", 0, KEYS[1]), "a key occurs twice"),
        (replaced("keys", 0, video_key("z")), "a key was not among the candidates"),
        (replaced("ids", 0, "z"), "an id isn't that of its key"),
        (replaced("ids", 0, ""), "a video that the release knows has no id"),
        (cleared("release_id"), "release_id is missing"),
        (
            lambda answer: setattr(answer.explained, "score", NAN),
            "the explained video's score isn't finite",
        ),
    ],
)
def test_a_ranking_that_breaks_the_contract_is_garbage(change: Change, reason: str) -> None:
    answer = ranked()
    change(answer)
    with pytest.raises((BadAnswerError, BadColumnError), match=reason):
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


def test_a_pod_may_not_have_heard_yet_of_a_video_that_the_release_lacks() -> None:
    answer = ranked()
    answer.ids[0], answer.source_masks[0], answer.unknown_candidates = "", NEW.bit, 1
    checked_ranked(answer, third=NEW.bit)


def test_a_releases_number_of_candidates_is_bounded() -> None:
    request = candidate_pb2.RetrieveCandidatesRequest(count=3, page_size=2)
    with pytest.raises(BadAnswerError, match="4 candidates, but 3 were requested"):
        check_candidates(found(), request)
    request.count_of_release = True
    check_candidates(found(), request)
    answer = found()
    answer.keys.extend(range(2000))
    with pytest.raises(BadAnswerError, match="2004 candidates, but 2000 were requested"):
        check_candidates(answer, request)


@pytest.mark.parametrize(
    "blocked",
    [
        {"viewer": ViewerFeatures(watched_keys=[*range(10_000), KEYS[0]])},
        {"viewer": ViewerFeatures(hidden_keys=[KEYS[3]], hidden_times=[1])},
        {"excluded_keys": [KEYS[3]]},
        {"seed_key": KEYS[3]},
    ],
)
def test_what_the_viewer_must_not_see_is_no_candidate(blocked: dict[str, Any]) -> None:
    request = candidate_pb2.RetrieveCandidatesRequest(count=4, page_size=2)
    request.viewer.watched_keys.extend(range(10_000))
    check_candidates(found(), request)
    request.MergeFrom(candidate_pb2.RetrieveCandidatesRequest(**blocked))
    with pytest.raises(BadAnswerError, match="a watched, hidden, excluded or playing video"):
        check_candidates(found(), request)
