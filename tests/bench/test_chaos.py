from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from rich.console import Console

from bench.chaos import measured
from bench.chaos.case import check_refused
from bench.chaos.cases import run_chaos
from bench.chaos.chain import Chain
from bench.chaos.findings import SHORT, Findings, Judge
from bench.load import PAGE, Answer, SteadyLoad
from bench.site import Recorder
from tests.builders.rpc import bare_server
from tests.builders.tiny_home import DATASET, build_tiny_home
from vireo.ops.stack.state import Layout
from vireo.server.errors import VireoError
from vireo.server.rpc.errors import unavailable
from vireo.v1 import event_pb2, event_pb2_grpc, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb

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


class _NeverMended:
    """A stack whose log stays down, and a site on which plays have no effect."""

    settings = SimpleNamespace(edge="nowhere")

    def unhealthy(self) -> dict[str, str]:
        return {"log": "starting"}

    async def slate(self, viewer: str, page: int) -> pb.RecommendResponse:
        return pb.RecommendResponse(items=[pb.SlateItem(video_id="video-1")])

    async def record(self, events: Any) -> None:
        pass


async def test_a_case_whose_waits_end_in_vain_fails_and_keeps_its_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack: Any = _NeverMended()
    plan = replace(SHORT, patience=0)
    findings = Findings(13, JUDGE, tmp_path / "failures.jsonl", plan.patience)
    chain = Chain(stack, DATASET, ["viewer"], plan, findings, ["video-1"])

    @asynccontextmanager
    async def opened(edge: str, patience: float) -> AsyncIterator[Any]:
        yield stack

    monkeypatch.setattr(measured, "opened_site", opened)
    await chain.until_healthy(["gateway-1"])
    await chain.until_healthy(["log", "gateway-1"])
    await measured._effect(chain)
    load = SteadyLoad("nowhere", ["viewer"], 1)
    load.answers = [RIGHT]
    result = findings.result(load)
    assert (result.holds, result.requests) == (False, 1)
    assert result.note == "not all of gateway-1, log came back; a play never took effect"


class _Refusing(event_pb2_grpc.EventServiceServicer):
    """Refuses each batch twice, and records it at the third attempt."""

    def __init__(self, details: bytes) -> None:
        self.details = details
        self.attempts: Counter[str] = Counter()

    async def RecordEvents(self, request: Any, context: Any) -> Any:  # noqa: N802
        first = request.events[0].event_id
        self.attempts[first] += 1
        if self.attempts[first] % 3:
            context.set_trailing_metadata((("grpc-status-details-bin", self.details),))
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        return event_pb2.RecordEventsResponse(recorded=len(request.events))


@asynccontextmanager
async def _refusing(details: bytes) -> AsyncIterator[tuple[_Refusing, str]]:
    """A server that refuses events, and its address."""
    service = _Refusing(details)  # type: ignore[abstract]  # it has no streams
    register = partial(event_pb2_grpc.add_EventServiceServicer_to_server, service)
    async with bare_server(register) as address:
        yield service, address


@pytest.mark.parametrize("says_when", [True, False])
async def test_refused_events_are_repeated_until_they_are_acknowledged(
    tmp_path: Path, says_when: bool
) -> None:
    details = unavailable("away", timedelta(seconds=1)).status() if says_when else b""
    findings = Findings(11, JUDGE, tmp_path / "failures.jsonl")
    async with (
        _refusing(details) as (service, address),
        Recorder(address, ["video-1"], rate=1000, patience=60, size=5) as recorder,
    ):

        async def some() -> bool:
            return len(recorder.acknowledged) >= 40

        await findings.until(some, "nothing was acknowledged")
    assert {each.says_when for each in recorder.refusals} == {says_when}
    assert len(recorder.refusals) >= 16, "two for each of eight batches"
    assert not any(count % 3 for count in service.attempts.values()), "none was given up"
    check_refused(findings, recorder.refusals)
    complaint = "don't say when to retry"
    assert (complaint in findings.result(SteadyLoad("nowhere", ["v"], 1)).note) != says_when


async def test_events_that_are_refused_for_too_long_end_the_recording_with_the_reason() -> None:
    async with _refusing(b"") as (_, address):
        recorder = Recorder(address, ["video-1"], rate=1000, patience=0, size=5)
        with pytest.raises(VireoError, match="UNAVAILABLE: away"):
            async with recorder:
                await asyncio.wait([recorder.running])


# Those that no other test causes: kills (1), 6 and 13 are in tests/ops/stack. Each once.
@pytest.mark.integration
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("layout", "cases"), [("separate", [3, 5, 10]), ("together", [2, 9, 11, 18])]
)
def test_no_request_is_lost_when_parts_of_the_stack_are_hurt(
    tmp_path: Path, layout: Layout, cases: list[int]
) -> None:
    home = build_tiny_home(tmp_path)
    plan = replace(SHORT, layout=layout)
    results = list(run_chaos(home, DATASET, cases, plan, Console()))
    assert [result.case for result in results] == cases
    assert [result for result in results if not result.holds] == []
