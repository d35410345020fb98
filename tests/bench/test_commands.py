"""`vireo bench` is the bench of its checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vireo

CHECKOUT = Path(vireo.__file__).parents[1]


def vireo_bench(*arguments: str, cwd: Path, checkout: Path = CHECKOUT) -> tuple[int, str]:
    """Run the command; return its exit code and what it said, as one line."""
    done = subprocess.run(
        [sys.executable, "-m", "vireo.ops.cli", "bench", *arguments],
        env={"PYTHONPATH": str(checkout), "PATH": "/usr/bin:/bin"},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["chaos", "--case", "99"], 1, "error: 99 isn't one of 1, "),
        (["chaos", "--help"], 0, "--case"),
        (["nothing"], 2, "No such command"),
    ],
)
def test_arguments_are_handed_over_and_exit_codes_come_back(
    arguments: list[str], code: int, said: str, tmp_path: Path
) -> None:
    found, text = vireo_bench(*arguments, cwd=tmp_path)
    assert (found, said in text) == (code, True), text


def test_without_a_checkout_the_command_says_so_in_one_line(tmp_path: Path) -> None:
    installed = tmp_path / "site-packages"
    installed.mkdir()
    shutil.copytree(CHECKOUT / "vireo", installed / "vireo", symlinks=False)
    code, text = vireo_bench("chaos", cwd=tmp_path, checkout=installed)
    assert code == 1
    assert text.startswith("error: vireo bench measures a checkout of the source"), text
