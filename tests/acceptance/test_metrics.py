"""What each process of a stack shows to Prometheus is what the documentation's table says."""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.builders.metrics_table import PROCESSES, documented
from tests.builders.stack import BIN, Stack
from vireo.ops.stack.settings import METRICS_PORT_OFFSET


@pytest.fixture(scope="module")
def shown(stack: Stack) -> dict[str, dict[str, Metric]]:
    """What each kind of process shows after a slate, by the documented names."""
    asked = [str(BIN / "vireo"), "recommend", "1"]
    subprocess.run(asked, env=stack.environment, check=True, capture_output=True)
    ports = {
        process.name.rpartition("-")[0] or process.name: process.port + METRICS_PORT_OFFSET
        for process in stack.state().processes
    }
    return {kind: dict(families(ports[kind])) for kind in PROCESSES}


def families(port: int) -> Iterator[tuple[str, Metric]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    for family in text_string_to_metric_families(text):
        if family.name.startswith("vireo_"):
            yield f"{family.name}_total" if family.type == "counter" else family.name, family


@pytest.mark.parametrize("kind", PROCESSES)
def test_a_process_shows_the_documented_metrics_and_no_other(
    kind: str, shown: dict[str, dict[str, Metric]]
) -> None:
    rows = documented()
    expected = {name for name, row in rows.items() if kind in row.processes}
    optional = {name for name in expected if "absent" in rows[name].meaning}
    assert expected - optional <= shown[kind].keys() <= expected
    for name, family in shown[kind].items():
        assert family.type == rows[name].kind, name
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == rows[name].labels, sample
