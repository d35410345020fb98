from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench import memory
from bench.__main__ import app
from bench.memory import peak_memory, write_profile
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.training.profile import load_profile, read_profile


def test_each_step_on_one_made_up_world_has_its_peak_and_its_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, commands = memory.peak_memory, []

    def peak(home: Home, arguments: Sequence[str]) -> int:
        commands.append(arguments[:2])
        # Building and training are measured alike, but take long.
        return measured(home, arguments) if arguments[0] == "data" else 5_000_000_000

    monkeypatch.setattr(memory, "peak_memory", peak)
    monkeypatch.setenv("VIREO_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["memory", "--events", "300", "--json"])
    assert done.exit_code == 0, done.output

    assert commands == [["data", "import"], ["features", "build"], ["train", "--data"]]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["measure"] for row in rows] == [
        f"{step}, 300 events: {what}"
        for step in ("import", "features", "training")
        for what in ("peak memory in GB", "memory said before, over used")
    ]
    assert [row["holds"] for row in rows] == [True] * 2 + [False] * 4
    assert 0.05 < rows[0]["figure"] < 4.0 == rows[0]["bound"]
    assert list(tmp_path.iterdir()) == []


def test_the_profile_is_the_large_one_for_a_minute(tmp_path: Path) -> None:
    brief, large = read_profile(write_profile(tmp_path / "brief.toml")), load_profile("large")
    assert brief == replace(large, retrieval=replace(large.retrieval, max_minutes=1.0))


def test_a_command_that_fails_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(VireoError, match=r"vireo data failed: .*no data set mine"):
        peak_memory(Home(tmp_path), ["data", "show", "mine"])
