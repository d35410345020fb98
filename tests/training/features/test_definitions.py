"""Feast's import leaves nothing behind in a process."""

from __future__ import annotations

import os

from prometheus_client import values

from vireo.training.features import definitions


def test_metrics_of_a_process_with_feast_and_of_those_that_it_starts_stay_in_memory() -> None:
    assert definitions.viewer.name == "viewer"
    assert not [name for name in os.environ if name.startswith("PROMETHEUS_MULTIPROC")]
    assert values.ValueClass.__name__ == "MutexValue"
