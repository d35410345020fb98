from __future__ import annotations

import pytest
import structlog

from tests.builders.samples import Grown
from vireo.server.pod.stage_metrics import StageMetrics
from vireo.server.recommend.runner import Caller, CallerGoneError, Run


def fail(run: Run, name: str, error: type[Exception] | None = None) -> None:
    """Run a stage that fails."""
    with run.stage(name, error, "source"):
        raise RuntimeError("no index")


def test_a_failure_that_a_stage_is_open_to_is_left_out_logged_and_reported() -> None:
    run = Run()
    with structlog.testing.capture_logs() as logs:
        fail(run, "bad", Exception)
    assert str(run.failures["bad"]) == "no index"
    assert [(line["stage"], line["log_level"], line["exc_info"]) for line in logs] == [
        ("source.bad", "error", run.failures["bad"])
    ]


@pytest.mark.parametrize(
    ("open_to", "fail_open"), [(None, True), (ValueError, True), (Exception, False)]
)
def test_any_other_failure_fails_the_run(open_to: type[Exception] | None, fail_open: bool) -> None:
    with pytest.raises(RuntimeError, match="no index"):
        fail(Run(fail_open=fail_open), "bad", open_to)


def test_every_stage_is_timed_and_failures_are_counted_by_service(grown: Grown) -> None:
    for _ in range(2):
        run = Run(StageMetrics("test"))
        fail(run, "bad", Exception)
        with run.stage("half", kind="scorer"):
            pass
        assert run.seconds.keys() == {"source.bad", "scorer.half"}
    for stage, failures in (("source.bad", 2), ("scorer.half", 0)):
        labels = {"service": "test", "stage": stage}
        assert grown("vireo_stage_seconds_count", **labels) == 2
        assert grown("vireo_stage_failures_total", **labels, reason="error") == failures


def test_no_stage_begins_past_the_callers_deadline_even_if_it_may_fail_open() -> None:
    run, begun = Run(caller=Caller(left=-0.001)), False
    with pytest.raises(CallerGoneError), run.stage("late", Exception):
        begun = True
    assert not begun
    assert not run.failures


def test_a_caller_past_its_deadline_has_gone() -> None:
    assert Caller(left=-0.001).gone
    assert not Caller(left=60).gone
    assert not Caller().gone
