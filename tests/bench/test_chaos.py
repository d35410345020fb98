from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from vireo.v1 import viewer_pb2

from bench.chaos.findings import Findings, Judge
from bench.chaos.plan import SHORT
from bench.chaos.run import CASES, run_chaos
from bench.load import PAGE, Answer, SteadyLoad
from tests.builders.tiny_home import DATASET, build_tiny_home

SLATE = tuple(f"video-{number}" for number in range(PAGE))
SCORES = (0.5,) * PAGE
JUDGE = Judge({"viewer": frozenset({"video-20"})})
RIGHT = Answer("viewer", 0, 0.1, SLATE, "a", scores=SCORES)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (RIGHT, ""),
        (replace(RIGHT, failure="UNAVAILABLE: gone"), "UNAVAILABLE: gone"),
        (replace(RIGHT, items=SLATE[:9]), "a slate of 9 videos"),
        (replace(RIGHT, items=(*SLATE[:9], SLATE[0])), "a slate with a video twice"),
        (replace(RIGHT, items=(*SLATE[:9], "")), "without an id"),
        (replace(RIGHT, scores=(*SCORES[:9], math.nan)), "a score that isn't finite"),
        (replace(RIGHT, items=(*SLATE[:9], "video-20")), "has watched"),
        (
            replace(
                RIGHT,
                items=(*SLATE[:9], "video-20"),
                degradations=(viewer_pb2.DEGRADATION_FEATURES_MISSING,),
            ),
            "",
        ),
    ],
)
def test_each_response_is_checked(answer: Answer, fault: str) -> None:
    assert fault in JUDGE.fault(answer)
    assert bool(JUDGE.fault(answer)) == bool(fault)


def test_a_case_holds_unless_something_broke_or_a_request_failed(tmp_path: Path) -> None:
    load = SteadyLoad("nowhere", ["viewer"], 1)
    load.answers = [RIGHT, replace(RIGHT, degradations=(1,))]

    def findings() -> Findings:
        return Findings(7, JUDGE, tmp_path / "failures.jsonl")

    result = findings().result(load)
    assert (result.case, result.requests, result.failed, result.degraded) == (7, 2, 0, 1)
    assert result.holds is True

    broken = findings()
    broken.must(False, "it broke")
    assert broken.result(load).holds is False
    assert "it broke" in broken.result(load).note

    load.answers.append(replace(RIGHT, failure="RESOURCE_EXHAUSTED: busy"))
    assert findings().result(load).holds is False
    assert findings().result(load).failed == 1
    assert findings().result(load, lost=["RESOURCE_EXHAUSTED"]).holds is True
    assert "RESOURCE_EXHAUSTED" in (tmp_path / "failures.jsonl").read_text()

    assert findings().result(SteadyLoad("nowhere", ["viewer"], 1)).holds is False


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_no_request_is_lost_when_parts_of_the_stack_are_hurt(tmp_path: Path) -> None:
    home = build_tiny_home(tmp_path)
    results = list(run_chaos(home, DATASET, [1, 2, 3, 5, 6, 9, 10], SHORT, Console()))
    assert [result.case for result in results] == [1, 2, 3, 5, 6, 9, 10]
    assert [result for result in results if not result.holds] == []
    assert "3 kills" in results[0].note, "a pod of each kind"


def test_cases_are_numbered_from_one() -> None:
    assert list(CASES) == list(range(1, 11))
