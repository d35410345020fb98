from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.memory.peak import peak_memory
from clients.cli.bench import app
from server.errors import VireoError
from server.home import Home


def test_an_import_tells_its_peak_and_whether_that_was_said_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIREO_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["memory", "--events", "300", "--json"])
    assert done.exit_code == 0, done.output
    peak, said = (json.loads(line) for line in done.stdout.splitlines())
    assert peak["measure"] == "import, 300 events: peak memory in GB"
    assert 0.05 < peak["figure"] < peak["bound"] == 4.0
    assert said["figure"] >= said["bound"] == 1.0
    assert peak["holds"]
    assert said["holds"]
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_fails_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(VireoError, match=r"vireo data failed: .*no data set mine"):
        peak_memory(Home(tmp_path), ["data", "show", "mine"])
