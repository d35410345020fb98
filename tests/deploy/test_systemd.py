"""The unit of systemd, by systemd's own check."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "deploy" / "vireo.service"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd isn't installed")
def test_systemd_has_nothing_to_say_against_the_unit(tmp_path: Path) -> None:
    vireo = Path(sys.executable).parent / "vireo"
    unit = tmp_path / "vireo.service"
    unit.write_text(UNIT.read_text().replace("/opt/vireo/.venv/bin/vireo", str(vireo)))
    check = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(check, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
