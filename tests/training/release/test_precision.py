from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from server.releases.precision import ModelPrecision
from training.release.config import PrecisionChoice
from training.release.precision import BOUNDS, Answers, decided, differences, time_difference

VIEWERS, WIDTH, VIDEOS = 200, 40, 1000
LISTS = np.stack([np.random.default_rng(v).permutation(VIDEOS)[:WIDTH] for v in range(VIEWERS)])
TARGETS = LISTS[:, 3]
FASTER, SLOWER = np.array([[2e-3], [1e-3]]), np.array([[1e-3], [1.1e-3]])
UNCHANGED = Answers(LISTS, LISTS, TARGETS, ({"watch": 0.01}, {"watch": 0.0101}))


def judged(
    answers: Answers,
    seconds: np.ndarray = FASTER,
    choice: PrecisionChoice = "auto",
    viewers: int = VIEWERS,
) -> ModelPrecision:
    measures = {"milliseconds": time_difference(seconds, BOUNDS)} | differences(answers, BOUNDS)
    return decided(choice, measures, viewers, BOUNDS)


def test_a_faster_model_with_the_same_lists_is_served_in_int8() -> None:
    precision = judged(UNCHANGED)

    assert precision.chosen == "int8"
    assert precision.why == "it ranks as float32 does in 0.50 of the time"
    assert precision.viewers == VIEWERS
    assert precision.measures["overlap_10"].int8 == 1
    assert precision.measures["milliseconds"].float32 == pytest.approx(2)


def test_places_may_change_within_the_ten_as_long_as_the_videos_watched_keep_theirs() -> None:
    swapped = LISTS.copy()
    swapped[:, [7, 8]] = LISTS[:, [8, 7]]

    assert judged(replace(UNCHANGED, int8=swapped)).chosen == "int8"


def test_other_videos_in_the_first_ten_are_refused() -> None:
    other = LISTS.copy()
    other[:, 9] = LISTS[:, 10]

    precision = judged(replace(UNCHANGED, int8=other))

    assert precision.chosen == "float32"
    assert "overlap_10 is worse by 0.1000" in precision.why
    assert precision.measures["overlap_10"].int8 == pytest.approx(0.9)


def test_the_video_watched_next_may_not_fall() -> None:
    lower = LISTS.copy()
    lower[:20, [3, 6]] = LISTS[:20, [6, 3]]

    precision = judged(replace(UNCHANGED, int8=lower))

    assert precision.chosen == "float32"
    assert precision.why.startswith("in int8 ndcg_10 is worse by")
    # A tenth of the viewers, from the fourth place to the seventh.
    lost = 0.1 * (1 - np.log2(5) / np.log2(8))
    assert precision.measures["ndcg_10"].worse_by == pytest.approx(lost)


def test_candidates_beyond_the_ten_count_too() -> None:
    fewer = LISTS.copy()
    fewer[:, 30:] = -1

    assert "overlap is worse by 0.2500" in judged(replace(UNCHANGED, int8=fewer)).why


def test_lists_of_ten_have_no_measure_of_more() -> None:
    ten = Answers(LISTS[:, :10], LISTS[:, :10], TARGETS)

    assert set(differences(ten, BOUNDS)) == {"overlap_10", "ndcg_10"}


def test_short_lists_are_compared_by_what_they_have() -> None:
    short = LISTS.copy()
    short[:, 4:] = -1

    found = differences(Answers(short, short, TARGETS), BOUNDS)

    assert found["overlap_10"].int8 == found["overlap"].int8 == 1


def test_a_video_that_no_list_has_is_no_hit_beside_padding() -> None:
    short = np.full((VIEWERS, WIDTH), -1)

    found = differences(Answers(short, short, np.full(VIEWERS, -2)), BOUNDS)

    assert found["ndcg_10"].float32 == found["recall"].float32 == 0


def test_probabilities_must_stay_calibrated() -> None:
    precision = judged(replace(UNCHANGED, calibration_errors=({"like": 0.02}, {"like": 0.03})))

    assert precision.chosen == "float32"
    assert precision.why == "in int8 like_calibration_error is worse by 0.0100"


def test_the_same_lists_in_more_time_are_refused() -> None:
    precision = judged(UNCHANGED, SLOWER)

    assert precision.chosen == "float32"
    assert precision.why == "int8 takes 1.10 of the time, and 0.80 is worth it"


def test_time_is_compared_viewer_by_viewer() -> None:
    # One long history among short ones would decide a comparison of sums.
    seconds = np.array([[1e-3] * 9 + [1.0], [0.5e-3] * 9 + [2.0]])

    assert time_difference(seconds, BOUNDS).worse_by == pytest.approx(-0.5)


def test_a_few_viewers_prove_nothing() -> None:
    precision = judged(UNCHANGED, viewers=99)

    assert precision.chosen == "float32"
    assert precision.why == "99 viewers to compare on, and 100 are needed"


@pytest.mark.parametrize("choice", ["float32", "int8"])
def test_a_profile_can_say_which(choice: PrecisionChoice) -> None:
    precision = judged(replace(UNCHANGED, int8=LISTS[::-1].copy()), SLOWER, choice)

    assert (precision.chosen, precision.why) == (choice, "the profile says so")
    assert precision.measures["overlap_10"].worse_by > BOUNDS.overlap, "it is told all the same"
