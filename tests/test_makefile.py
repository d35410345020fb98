"""What the Makefile asks before it deletes."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A file that nobody can make again, in a checkout."""
    shutil.copy(MAKEFILE, tmp_path)
    (tmp_path / "clients").mkdir()
    (tmp_path / "clients" / "Makefile").write_text("clean:\n")
    data = tmp_path / ".vireo" / "data"
    data.parent.mkdir()
    data.touch()
    return data


def clean(
    data: Path, *arguments: str, typed: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `make clean` in the checkout; at a terminal, where something is typed."""
    controller, terminal = pty.openpty()
    if typed:
        os.write(controller, typed.encode())
    try:
        return subprocess.run(
            ["make", "clean", *arguments],
            cwd=data.parents[1],
            stdin=terminal if typed else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        os.close(controller)
        os.close(terminal)


def test_clean_deletes_data_only_if_told_to(data: Path) -> None:
    for typed in (None, "n\n", "\n"):
        refused = clean(data, typed=typed)
        assert refused.returncode
        assert "make clean YES=1" in refused.stderr
        assert data.exists()
    assert clean(data, typed="y\n").returncode == 0
    assert not data.exists()


def test_clean_asks_nothing_if_it_was_told_so(data: Path) -> None:
    assert clean(data, "YES=1").returncode == 0
    assert not data.exists()
