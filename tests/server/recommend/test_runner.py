import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
import structlog
from prometheus_client import REGISTRY

from vireo.server.pod.stage_metrics import StageMetrics
from vireo.server.recommend.candidates import Candidates
from vireo.server.recommend.runner import Caller, CallerGoneError, Pipeline, Run, StageError


def candidates(*keys: int) -> Candidates:
    found = np.array(keys, np.int64)
    return Candidates(found, found, np.full(len(found), 2, np.uint32))


@dataclass(frozen=True)
class Fixed:
    """A source of the given keys; fails with the given message instead if there is one."""

    name: str
    keys: tuple[int, ...] = ()
    failure: str = ""
    fail_open: bool = True

    def propose(self, query: int) -> Candidates:
        if self.failure:
            raise RuntimeError(self.failure)
        return candidates(*self.keys)


@dataclass(frozen=True)
class AtMost:
    name: str = "at_most"
    wrong_length: bool = False

    def keep(self, query: int, candidates: Candidates) -> npt.NDArray[np.bool_]:
        kept: npt.NDArray[np.bool_] = candidates.keys <= query
        return kept[1:] if self.wrong_length else kept


@dataclass(frozen=True)
class Half:
    name: str = "half"
    columns: Mapping[str, float] = field(default_factory=lambda: {"half": 0.5})
    fail_open: bool = True
    length: int | None = None
    failure: str = ""

    def score(self, query: int, candidates: Candidates) -> dict[str, npt.NDArray[np.float32]]:
        if self.failure:
            raise RuntimeError(self.failure)
        return {"half": (candidates.keys / 2).astype(np.float32)[: self.length]}


@dataclass(frozen=True)
class Reversed:
    name: str = "reversed"

    def select(self, query: int, candidates: Candidates) -> Candidates:
        return candidates.take(np.argsort(-candidates.keys))


def test_stages_run_in_order() -> None:
    chain = Pipeline(
        sources=(Fixed("a", (1, 2)), Fixed("b", (3, 9))),
        filters=(AtMost(),),
        scorers=(Half(),),
        selector=Reversed(),
    )
    run = Run()
    selected = chain.run(5, run)
    assert selected.keys.tolist() == [3, 2, 1]
    assert selected.scores["half"].tolist() == [1.5, 1.0, 0.5]
    assert not run.failures


def test_every_stage_is_timed_and_failures_are_counted_by_service() -> None:
    def value(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, {"service": "test", **labels}) or 0.0

    chain = Pipeline(
        sources=(Fixed("bad", failure="no index"), Fixed("good", (1,))),
        filters=(AtMost(),),
        scorers=(Half(),),
        selector=Reversed(),
    )
    chain.run(5, Run(StageMetrics("test")))
    chain.run(5, Run(StageMetrics("test")))
    for stage in (
        "source.bad",
        "source.good",
        "filter.at_most",
        "scorer.half",
        "selector.reversed",
    ):
        assert value("vireo_stage_seconds_count", stage=stage) == 2
    failures = "vireo_stage_failures_total"
    assert value(failures, stage="source.bad", reason="error") == 2
    assert value(failures, stage="source.good", reason="error") == 0


def test_failed_source_is_left_out_logged_and_reported() -> None:
    chain = Pipeline(
        sources=(Fixed("bad", failure="no index"), Fixed("good", (1,))), selector=Reversed()
    )
    run = Run()
    with structlog.testing.capture_logs() as logs:
        selected = chain.run(5, run)
    assert selected.keys.tolist() == [1]
    assert str(run.failures["bad"]) == "no index"
    assert [(line["stage"], line["log_level"], line["exc_info"]) for line in logs] == [
        ("source.bad", "error", run.failures["bad"])
    ]


@pytest.mark.parametrize(
    ("sources", "fail_open", "reason"),
    [
        ((Fixed("bad", failure="gone", fail_open=False),), True, "gone"),
        ((Fixed("a", failure="first"), Fixed("b", failure="second")), True, "second"),
        ((Fixed("bad", failure="broken"), Fixed("good", (1,))), False, "broken"),
    ],
    ids=["a source that must not fail", "every source", "any source of a strict run"],
)
def test_a_run_fails_without_what_it_needs(
    sources: tuple[Fixed, ...], fail_open: bool, reason: str
) -> None:
    chain = Pipeline(sources=sources, selector=Reversed())
    with pytest.raises(RuntimeError, match=reason):
        chain.run(5, Run(fail_open=fail_open))


def test_filter_of_the_wrong_length_fails_the_run() -> None:
    chain = Pipeline(
        sources=(Fixed("a", (1, 2)),), filters=(AtMost(wrong_length=True),), selector=Reversed()
    )
    with pytest.raises(StageError, match="at_most returned bool"):
        chain.run(5, Run())


def test_failed_scorer_that_fails_open_leaves_its_neutral_value() -> None:
    chain = Pipeline(
        sources=(Fixed("a", (1, 2)),), scorers=(Half(failure="no model"),), selector=Reversed()
    )
    run = Run()
    assert chain.run(5, run).scores["half"].tolist() == [0.5, 0.5]
    assert str(run.failures["half"]) == "no model"


def test_scorer_of_the_wrong_length_is_a_failure_of_that_scorer() -> None:
    chain = Pipeline(sources=(Fixed("a", (1, 2)),), scorers=(Half(length=1),), selector=Reversed())
    run = Run()
    chain.run(5, run)
    assert "column half has 1 values for 2 candidates" in str(run.failures["half"])


@dataclass(frozen=True)
class Outlasts:
    """A scorer that ends after the caller's deadline."""

    caller: Caller
    name: str = "outlasts"
    columns: Mapping[str, float] = field(default_factory=dict)
    fail_open: bool = True

    def score(self, query: int, candidates: Candidates) -> dict[str, npt.NDArray[np.float32]]:
        time.sleep(max(0.0, self.caller.left))
        return {}


def test_no_stage_runs_past_the_callers_deadline_even_if_it_may_fail_open() -> None:
    caller = Caller(left=0.05)
    scored: list[str] = []

    @dataclass(frozen=True)
    class Tells(Half):
        def score(self, query: int, candidates: Candidates) -> dict[str, npt.NDArray[np.float32]]:
            scored.append(self.name)
            return super().score(query, candidates)

    pipeline = Pipeline(
        sources=(Fixed("a", (1, 2)),),
        scorers=(Outlasts(caller), Tells()),
        selector=Reversed(),
    )
    assert len(pipeline.run(5, Run())) == 2
    scored.clear()
    with pytest.raises(CallerGoneError):
        pipeline.run(5, Run(caller=caller))
    assert scored == []


def test_a_caller_past_its_deadline_has_gone() -> None:
    assert Caller(left=-0.001).gone
    assert not Caller(left=60).gone
    assert not Caller().gone
