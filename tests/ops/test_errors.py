"""Errors of the command line: one clear line, and an exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vireo.ops.cli.__main__ import main
from vireo.server.releases.promotion import PromotionRefusedError


def error_of(home: Path, *arguments: str | bytes, code: int = 1) -> str:
    """The one line that a command fails with."""
    done = subprocess.run(
        [sys.executable, "-m", "vireo.ops.cli", *arguments],
        env={**os.environ, "VIREO_HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize("command", [("release", "list"), ("up",)])
def test_a_read_only_home_is_reported(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "VIREO_HOME" in error_of(tmp_path / "file" / "home", *command)


@pytest.mark.parametrize(
    ("request_", "words", "code"),
    [
        (("1", "--page-size", "99999999999"), "invalid request", 1),
        ((b"a\xff",), "invalid request", 1),
        (("1", "--target", "127.0.0.1:1"), "nothing serves at 127.0.0.1:1", 3),
    ],
)
def test_a_request_that_no_message_can_hold_or_nobody_serves_is_reported(
    request_: tuple[str | bytes, ...], words: str, code: int, tmp_path: Path
) -> None:
    assert words in error_of(tmp_path, "recommend", *request_, code=code)


def test_a_missing_release_is_reported_with_an_existing_command(tmp_path: Path) -> None:
    message = error_of(tmp_path, "release", "publish", "--data", "mine")
    assert "vireo train --data mine" in message


def test_a_release_that_the_gate_refuses_has_a_code_of_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse() -> None:
        raise PromotionRefusedError("it is worse")

    with pytest.raises(SystemExit) as ended:
        main(refuse)
    assert (ended.value.code, capsys.readouterr().err) == (4, "error: it is worse\n")
