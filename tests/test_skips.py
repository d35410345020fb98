"""In CI no test is skipped but for a reason that is listed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
TESTS = """
import pytest

@pytest.fixture
def program():
    pytest.skip("no program")

def test_of_a_program(program): ...

@pytest.mark.skipif(True, reason="no processor")
def test_of_a_processor(): ...

def test_of_a_mount():
    pytest.skip("needs the right to mount a file system")

@pytest.mark.xfail
def test_that_fails():
    assert False
"""


@pytest.mark.parametrize("in_ci", [True, False])
def test_a_skipped_test_fails_in_ci_unless_its_reason_is_listed(
    in_ci: bool, tmp_path: Path
) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**kept, "PYTHONPATH": str(CHECKOUT), "CI": "1" if in_ci else ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == (1 if in_ci else 0), done.stdout + done.stderr
    for test, reason in (("program", "no program"), ("processor", "no processor")):
        said = f"test_it.py::test_of_a_{test} may not be skipped in CI: {reason}"
        assert (said in done.stdout) is in_ci
    assert ("1 skipped" if in_ci else "3 skipped") in done.stdout
    assert "1 xfailed" in done.stdout
