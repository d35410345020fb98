"""ONNX Runtime sends nothing to its maker."""

from __future__ import annotations

import subprocess
import sys


def test_onnx_runtime_starts_no_thread_that_reports() -> None:
    assert _threads_after("vireo.server.models.model") == _threads_after("vireo.server.arrays")


def _threads_after(module: str) -> str:
    count = f"import {module}, os; print(len(os.listdir('/proc/self/task')))"
    # Without our variables, which say more than the code, and those by which it knows a CI machine,
    # where it reports nothing anyway.
    return subprocess.check_output([sys.executable, "-c", count], env={}, text=True)
