"""How slates beside a batch are told from those without."""

from __future__ import annotations

import pytest

from bench.load import Answer
from bench.requests.batch import BatchPlan, _tails

PLAN = BatchPlan(turns=2, seconds=2.0)
TURNS = [(10.0, False), (12.0, True), (14.0, False), (16.0, True)]


def answered(at: float, seconds: float) -> Answer:
    return Answer("v", at, seconds)


def test_a_slate_counts_for_the_turn_in_which_it_left() -> None:
    answers = [answered(at + 0.1 * step, at) for at, _ in TURNS for step in range(2, 20)]
    alone, beside = _tails(answers, TURNS, PLAN)
    assert alone == pytest.approx(14, abs=0.1)
    assert beside == pytest.approx(16, abs=0.1)


def test_what_leaves_at_the_beginning_of_a_turn_or_outside_of_all_does_not_count() -> None:
    answers = [answered(11, 1), answered(13, 2)]
    others = [answered(at, 1000) for at in (9.9, 10.0, 12.1, 14.05, 18.1)]
    assert _tails([*others, *answers], TURNS, PLAN) == (1, 2)
