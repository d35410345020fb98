from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from bench.alerts import SHORT, SHORT_CASES, expected_of, measure_alerts, resolved_after
from bench.chaos.cases import ALERTING, CASES
from tests.builders.tiny_home import DATASET, build_tiny_home
from vireo.ops.stack.observe import FOLDER


def test_each_chaos_case_has_a_fault_that_waits_for_an_alert_of_the_rules() -> None:
    faults = [each for on_redis in (False, True) for each in expected_of(CASES, on_redis=on_redis)]
    assert {each.case for each in faults} == {*CASES}
    assert all(any(each in case.faults for case in CASES.values()) for each in ALERTING)
    documents = [yaml.safe_load(path.read_text()) for path in FOLDER.glob("rules/*.yaml")]
    rules = [rule for each in documents for group in each["groups"] for rule in group["rules"]]
    names = {rule["alert"] for rule in rules if "alert" in rule}
    assert {each.alert for each in faults} - names == {""}


@pytest.mark.parametrize(
    ("moments", "until", "expected"),
    [
        ([], 150.0, 0.0),
        ([100.0, 101.0, 102.0], 150.0, 3.0),
        ([100.0, 101.0, 140.0, 141.0], 150.0, 2.0),
        ([120.0, 121.0], 150.0, 0.0),
        ([100.0 + second for second in range(51)], 150.0, math.inf),
        ([], 100.5, math.inf),  # it has just been looked at
    ],
)
def test_an_alert_has_resolved_once_it_did_not_fire(
    moments: list[float], until: float, expected: float
) -> None:
    assert resolved_after(moments, 100.0, until) == expected


@pytest.mark.integration
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is missing: make prometheus"
)
def test_alerts_fire_for_faults_alone_and_doctor_names_them(tmp_path: Path) -> None:
    home = build_tiny_home(tmp_path)
    rows = list(measure_alerts(home, DATASET, SHORT, Console(), SHORT_CASES))
    assert [row.measure for row in rows if not row.holds] == []
    assert len(rows) == 2 + 2 * len(SHORT_CASES)
