"""Feast's import leaves nothing behind in a process."""

from __future__ import annotations

import subprocess
import sys

_SHOW = """
import os
import vireo.training.features.definitions
from prometheus_client import values
print([name for name in os.environ if name.startswith("PROMETHEUS")], values.ValueClass.__name__)
"""


def test_metrics_of_a_process_with_feast_and_of_those_that_it_starts_stay_in_memory() -> None:
    shown = subprocess.run([sys.executable, "-c", _SHOW], capture_output=True, text=True)
    assert shown.stdout == "[] MutexValue\n", shown.stderr
