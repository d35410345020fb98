from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from bench.speed.plan import SpeedPlan
from bench.speed.profile import measure_profile
from bench.speed.report import write_profiles
from tests.builders.tiny_home import DATASET, build_tiny_home

PTRACE = Path("/proc/sys/kernel/yama/ptrace_scope")
needs_ptrace = pytest.mark.skipif(
    os.geteuid() != 0 and PTRACE.exists() and PTRACE.read_text().strip() != "0",
    reason="py-spy may not read other processes here",
)
needs_h2load = pytest.mark.skipif(
    shutil.which("h2load") is None, reason="h2load is missing: make h2load"
)


@needs_h2load
@needs_ptrace
@pytest.mark.integration
def test_each_service_is_sampled_under_load(tmp_path: Path) -> None:
    home = build_tiny_home(tmp_path / "home")
    plan = SpeedPlan(viewers=1, requests=64)
    profiles = measure_profile(home, DATASET, plan, 1, tmp_path, Console(quiet=True))
    assert [each.service for each in profiles] == ["gateway", "candidate", "ranking"]
    for profile in profiles:
        assert profile.milliseconds > 0
    write_profiles(profiles, tmp_path)
    page = (tmp_path / "profile.md").read_text()
    for profile in profiles:
        graph = (tmp_path / f"{profile.service}.svg").read_text()
        assert "<svg" in graph
        assert "server/" in graph
        assert f"({profile.service}.svg)" in page
