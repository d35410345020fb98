from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from bench.speed.plan import SpeedPlan
from bench.speed.profile import measure_profile, parse_stacks
from bench.speed.report import write_profiles
from server.errors import VireoError
from tests.builders.tiny_home import DATASET, build_tiny_home

RANK = "rank (server/ranking/pipeline.py:61)"
RUN = "Session.run (onnxruntime/session.py:9)"
COLLAPSED = f"""\
thread (41): MainThread;<module> (runpy.py:1) 10
thread (42): model_0;{RANK};{RUN} 60
thread (42): model_0;{RANK};{RANK} 30
"""
USED = {41: 0.1, 42: 0.9, 43: 1.0}
PTRACE = Path("/proc/sys/kernel/yama/ptrace_scope")
needs_ptrace = pytest.mark.skipif(
    os.geteuid() != 0 and PTRACE.exists() and PTRACE.read_text().strip() != "0",
    reason="py-spy may not read other processes here",
)
needs_h2load = pytest.mark.skipif(
    shutil.which("h2load") is None, reason="h2load is missing: make h2load"
)


def test_a_function_has_a_share_of_the_time_with_what_it_calls_and_without() -> None:
    threads, (run, rank, _) = parse_stacks(COLLAPSED, USED)
    assert (run.name, rank.name) == (RUN, RANK)
    assert (run.whole, run.own) == pytest.approx((0.6, 0.6))
    assert (rank.whole, rank.own) == pytest.approx((0.9, 0.3))
    assert threads == {
        "threads that run no Python": pytest.approx(0.5),
        "model_0": pytest.approx(0.45),
        "MainThread": pytest.approx(0.05),
    }


def test_a_thread_that_only_waited_for_a_core_has_no_time() -> None:
    _, (_, rank, main) = parse_stacks(COLLAPSED, {41: 0.0, 42: 0.3})
    assert rank.whole == pytest.approx(1.0)
    assert (main.name, main.own) == ("<module> (runpy.py:1)", 0.0)


def test_what_is_not_a_stack_is_refused() -> None:
    with pytest.raises(VireoError, match="begins with no thread"):
        parse_stacks("main (a.py:1) 3", {})


@needs_h2load
@needs_ptrace
@pytest.mark.integration
def test_each_service_is_sampled_under_load(tmp_path: Path) -> None:
    home = build_tiny_home(tmp_path / "home")
    plan = SpeedPlan(viewers=1, requests=64)
    profiles = measure_profile(home, DATASET, plan, 1, tmp_path, Console(quiet=True))
    assert [each.service for each in profiles] == ["gateway", "candidate", "ranking"]
    for profile in profiles:
        assert any("server/" in each.name for each in profile.functions)
        assert sum(profile.threads.values()) == pytest.approx(1.0)
    write_profiles(profiles, tmp_path)
    page = (tmp_path / "profile.md").read_text()
    for profile in profiles:
        assert "<svg" in (tmp_path / f"{profile.service}.svg").read_text()
        assert f"({profile.service}.svg)" in page
