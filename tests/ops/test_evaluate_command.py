from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from vireo.ops.cli import evaluate
from vireo.server.errors import VireoError
from vireo.server.home import Home


def test_options_before_a_command_are_not_lost_without_a_word() -> None:
    done = CliRunner().invoke(evaluate.app, ["--data", "films", "page"])
    with pytest.raises(VireoError, match="go after its name: vireo evaluate page"):
        raise done.exception or AssertionError(done.output)


def test_an_unknown_release_without_a_store_names_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIREO_HOME", str(tmp_path))
    monkeypatch.delenv("VIREO_S3_ENDPOINT", raising=False)
    with pytest.raises(VireoError, match="set VIREO_S3_ENDPOINT"):
        evaluate.stored_manifest(Home(tmp_path), "r-9")
