from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from bench import memory
from bench.__main__ import app
from bench.memory import measure_import, measure_training, peak_memory, peak_rows, write_profile
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.training.profile import load_profile, read_profile

QUIET = Console(quiet=True)


def test_an_import_reports_its_peak_and_whether_it_was_estimated(tmp_path: Path) -> None:
    peak, said = measure_import(Home(tmp_path), 300, QUIET)

    assert peak.measure == "import, 300 events: peak memory in GB"
    assert 0.05 < peak.figure < 4.0 == peak.bound
    assert said.figure >= 1.0 == said.bound
    assert peak.holds
    assert said.holds
    assert list(tmp_path.iterdir()) == []


def test_features_and_training_are_measured_on_one_made_up_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []

    def peak(home: Home, arguments: Sequence[str]) -> int:
        assert (home.data("made-up") / "dataset.json").exists()
        commands.append(list(arguments))
        return 5_000_000_000

    monkeypatch.setattr(memory, "peak_memory", peak)
    rows = list(measure_training(Home(tmp_path), 1000, QUIET))

    assert [command[:2] for command in commands] == [["features", "build"], ["train", "--data"]]
    assert [row.measure for row in rows] == [
        "features, 1,000 events: peak memory in GB",
        "features, 1,000 events: memory said before, over used",
        "training, 1,000 events: peak memory in GB",
        "training, 1,000 events: memory said before, over used",
    ]
    assert [row.holds for row in rows] == [False] * 4
    assert list(tmp_path.iterdir()) == []


def test_the_profile_is_the_large_one_for_a_minute(tmp_path: Path) -> None:
    brief, large = read_profile(write_profile(tmp_path / "brief.toml")), load_profile("large")
    assert brief == replace(large, retrieval=replace(large.retrieval, max_minutes=1.0))


def test_a_line_is_printed_for_each_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "measure_import", lambda *_: peak_rows("import", 300, 10**9, 10**9))
    monkeypatch.setattr(
        memory, "measure_training", lambda *_: peak_rows("training", 300, 5 * 10**9, 10**9)
    )
    done = CliRunner().invoke(app, ["memory", "--events", "300", "--json"])
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["figure"], line["bound"], line["holds"]) for line in lines] == [
        (1.0, 4.0, True),
        (1.0, 1.0, True),
        (5.0, 4.0, False),
        (0.2, 1.0, False),
    ]


def test_a_command_that_fails_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(VireoError, match=r"vireo data failed: .*no data set mine"):
        peak_memory(Home(tmp_path), ["data", "show", "mine"])
