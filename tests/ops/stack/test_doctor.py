"""`vireo doctor` on a whole stack: what is wrong with it comes first, and goes with the fault."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.builders.stack import Stack
from tests.builders.waiting import wait_until
from vireo.ops.doctor.conditions import Finding
from vireo.ops.doctor.deployment import ask_all
from vireo.ops.doctor.diagnose import diagnose
from vireo.ops.doctor.facts import Facts
from vireo.ops.doctor.parts import probes_of, stack_deployment

pytestmark = pytest.mark.integration

_WINDOW, _PATIENCE = 0.3, 60.0

Diagnosed = tuple[Facts, list[Finding]]


@pytest.fixture
def diagnosed(tiny_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Diagnosed]:
    """Asks every part of the stack, in this process."""
    for name, text in tiny_stack.environment.items():
        if name.startswith("VIREO_"):
            monkeypatch.setenv(name, text)

    def ask() -> Diagnosed:
        deployment = stack_deployment(tiny_stack.state(), _WINDOW)
        facts = ask_all([*probes_of(deployment)], _PATIENCE)
        return facts, diagnose(facts)

    return ask


@pytest.fixture(autouse=True)
def _well_again(diagnosed: Callable[[], Diagnosed]) -> Iterator[None]:
    """Leaves the stack as it was: without anything that fails but for what was killed just now."""
    yield
    until_well(diagnosed)


def until_well(diagnosed: Callable[[], Diagnosed]) -> None:
    over = {"pod-dies", "log-down", "s3-down", "consumer-down", "control-down"}
    for _ in range(60):
        facts, findings = diagnosed()
        ill = [part for part in facts.parts if part.fault] + [
            pod for pod in facts.pods if pod.problem
        ]
        failing = {each.cause for each in findings if each.level == "failing"}
        healthy = all(each.state == "healthy" for each in facts.processes)
        if healthy and not ill and failing <= over:
            return
    raise AssertionError(f"the stack is not well again: {findings}")


def causes(findings: list[Finding]) -> list[str]:
    return [each.cause for each in findings if each.level == "failing"]


def restarts(stack: Stack) -> dict[str, int]:
    """How often each process was restarted."""
    return {each.name: each.restarts for each in stack.state().processes}


@contextmanager
def hanging(stack: Stack, name: str) -> Iterator[None]:
    """A process that is stopped until the block ends."""
    pid = stack.pid(name)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_every_part_of_a_healthy_stack_is_asked(diagnosed: Callable[[], Diagnosed]) -> None:
    facts, findings = diagnosed()
    assert causes(findings) == []
    assert facts.unasked == ()
    names = {part.name for part in facts.parts}
    assert names == {"edge", "envoy", "control", "log", "store", "s3"}
    assert len(facts.pods) == 6
    assert {page.source for page in facts.pages} >= {"gateway-1", "consumer-1", "control"}
    assert {host.name for host in facts.hosts} >= {"gateway-1", "ranking-2"}
    assert facts.channels[0].release == "tiny-1"


def test_while_all_else_hangs_every_probe_ends_and_each_part_is_named(
    tiny_stack: Stack, diagnosed: Callable[[], Diagnosed]
) -> None:
    names = ("gateway-1", "candidate-2", "log", "s3", "control", "consumer-1", "envoy")
    with ExitStack() as stopped:
        for name in names:
            stopped.enter_context(hanging(tiny_stack, name))
        facts, findings = diagnosed()
    assert not [each for each in facts.unasked if "found nothing out" in each.why]
    expected = ["edge-down", "log-down", "control-down", "pod-hangs", "consumer-down", "s3-down"]
    assert [each for each in causes(findings) if each in expected] == expected


@pytest.mark.parametrize(("name", "cause"), [("candidate-1", "pod-dies"), ("log", "log-down")])
def test_a_process_that_is_killed_is_named_with_its_end(
    tiny_stack: Stack, diagnosed: Callable[[], Diagnosed], name: str, cause: str
) -> None:
    before = restarts(tiny_stack)
    os.kill(tiny_stack.pid(name), signal.SIGKILL)
    wait_until(lambda: restarts(tiny_stack) != before)
    _, findings = diagnosed()
    [finding] = [each for each in findings if each.cause == cause]
    assert finding.level == "failing"
    assert any(f"{name} ended with signal SIGKILL" in each for each in finding.evidence)


def test_the_command_prints_it_as_json_and_ends_with_1(tiny_stack: Stack, tmp_path: Path) -> None:
    with hanging(tiny_stack, "ranking-2"):
        done = subprocess.run(
            ["vireo", "doctor", "--json", "--seconds", "0.3"],
            env=tiny_stack.environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    assert (done.returncode, done.stderr) == (1, "")
    found = {each["cause"]: each for each in json.loads(done.stdout)["findings"]}
    assert "the kernel has ranking-2 stopped" in found["pod-hangs"]["evidence"][0]
