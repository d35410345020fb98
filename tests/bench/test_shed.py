from __future__ import annotations

import math
from pathlib import Path

import pytest
from rich.console import Console

from bench.load import Answer
from bench.shed import ShedPlan, measure_shedding, seconds_to_normal
from tests.builders.tiny_home import DATASET, build_tiny_home

USUAL = 0.03


def answers(
    *, slow_until: float = 0.0, failed_at: float = -1.0, seconds: float = 5.0
) -> list[Answer]:
    """Ten answers a second from second 100 on."""
    made = []
    for number in range(round(10 * seconds)):
        after = number / 10
        took = 0.5 if after < slow_until else 0.01
        failure = "RESOURCE_EXHAUSTED: shed" if after == failed_at else ""
        made.append(Answer("viewer", 100 + after, took, failure=failure))
    return made


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (answers(), 0),
        (answers(slow_until=0.9), 1.0),
        (answers(failed_at=0.6), 0.75),
        (answers(failed_at=4.5), 0),
        (answers(slow_until=4.0), math.inf),
        ([], math.inf),
    ],
)
def test_all_is_normal_from_when_on_two_seconds_have_nothing_unusual(
    made: list[Answer], wanted: float
) -> None:
    assert seconds_to_normal(made, 100, USUAL) == wanted


@pytest.mark.integration
def test_every_request_of_an_overload_is_answered_or_shed(tmp_path: Path) -> None:
    home = build_tiny_home(tmp_path)
    plan = ShedPlan(seconds=3, quiet_seconds=2, times=6, deadline=30, viewers=1)
    result = measure_shedding(home, DATASET, plan, Console(quiet=True))
    assert result.sustained_rate > 1
    assert result.requests == result.full + result.degraded + result.shed + result.failed
    assert result.failed == 0
    assert result.full > 0
    assert result.shed + result.degraded > 0
