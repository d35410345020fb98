"""Which pages simulated days come to, with the chart's rules, by promtool."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders.chart import render
from tests.deploy.observability.days import (
    EDGE,
    FLEET,
    GONE,
    INSTALLATION,
    LENGTH,
    SLATES,
    START,
    STEP,
    Deviation,
    away,
    recorded,
)
from vireo.ops.stack.observe import FOLDER

pytestmark = pytest.mark.integration


AVAILABILITY = f'{{slo="availability",installation="{INSTALLATION}"}}'


@dataclass(frozen=True)
class Page:
    """One that must come."""

    alert: str
    within: float
    """Minutes after it happened, within which it comes."""
    lasts: float
    """Minutes after it happened until which it lasts at least."""
    ends: float
    """Minutes after it happened by which it has ended."""


@dataclass(frozen=True)
class Day:
    """What deviates from a calm day, and what somebody is told of it."""

    title: str
    deviations: Sequence[Deviation] = ()
    pages: Sequence[Page] = ()
    """All of them, each once."""
    tickets: frozenset[str] = frozenset()
    """Those that there are during the day."""
    failed: int = 0
    """Percents of its slates that count as failed in the budget."""


_EDGE_SLATES = SLATES / 2
"""Slates each step of one of the edge's Envoys."""


def failed_slates(start: float, end: float, status: str, share: float) -> list[Deviation]:
    """Return what the edge counts while a share of the slates fails."""
    return [
        Deviation(start, end, share * _EDGE_SLATES, f"{EDGE}{status}"),
        Deviation(start, end, (1 - share) * _EDGE_SLATES, f"{EDGE}0"),
    ]


def rolled(component: str, at_a_time: int) -> list[Deviation]:
    """Return what is recorded of a fleet whose pods are replaced, some every four minutes.

    A pod has the name of the one that it replaces, since nothing here tells them apart.
    """
    found = []
    for number in range(FLEET[component]):
        begun = START + number // at_a_time * 4
        pod = {"pod": f"{component}-{number}"}
        # Its image is being pulled; then it answers, and is connected to nothing yet.
        found += away(begun, begun + 2, seconds=0.01, **pod)
        found += [
            Deviation(begun + 2, begun + 3, 0, name, labels=pod)
            for name in (
                "vireo_log_connected",
                "envoy_cluster_membership_healthy",
                "envoy_control_plane_connected_state",
            )
        ]
        started = 60 * (begun + 2)
        name = "process_start_time_seconds"
        found.append(Deviation(begun + 2, LENGTH, started, name, labels=pod))
    return found


def log_away(start: float, end: float) -> list[Deviation]:
    """Return what is recorded while no process reaches the log."""
    return [
        Deviation(start, end, 0, "vireo_log_connected"),
        Deviation(start, end, 0, "vireo_events_recorded_total"),
        Deviation(start, end, 20, "vireo_events_refused_total"),
        # Features lag a little behind, and catch up a little later.
        Deviation(start + 0.5, end + 1, 4, "vireo_features_behind"),
        Deviation(start + 0.5, end + 1, 0, "vireo_slates_total", labels={"degraded": "no"}),
        Deviation(start + 0.5, end + 1, SLATES, "vireo_slates_total", labels={"degraded": "yes"}),
    ]


def promoted(start: float, end: float) -> list[Deviation]:
    """Return what is recorded while pods swap releases one after the other."""
    return [
        Deviation(
            start, end, 0.3 * SLATES, "vireo_degradations_total", labels={"kind": "mixed_releases"}
        ),
        Deviation(start, end, 0.7 * SLATES, "vireo_slates_total", labels={"degraded": "no"}),
        Deviation(start, end, 0.3 * SLATES, "vireo_slates_total", labels={"degraded": "yes"}),
    ]


DAYS = (
    Day("calm"),
    Day(
        "no gateway answers for twenty minutes",
        [
            *away(START, START + 20, component="gateway"),
            *away(START, START + 20, component="sidecar"),
            *failed_slates(START, START + 20, "14", 1),
            Deviation(
                START,
                START + 20,
                0,
                "envoy_cluster_membership_healthy",
                labels={"component": "edge", "envoy_cluster_name": "gateway"},
            ),
        ],
        [Page("VireoPoolEmpty", 1, 20, 22), Page("VireoSlatesFail", 5, 20, 55)],
        frozenset({"VireoPodHangs", "VireoEndpointsMissing"}),
        failed=11,
    ),
    Day(
        "nothing at all is there for an hour",
        [Deviation(START, START + 60, GONE, labels={"installation": INSTALLATION})],
        [Page("VireoEdgeDown", 1, 60, 62), Page("VireoSlatesFail", 5, 60, 95)],
        frozenset({"VireoEdgeDown", "VireoMetricsMissing"}),
        failed=33,
    ),
    Day(
        "a zone is lost for half an hour, and the others shed calls until there are more pods",
        [
            *away(START, START + 30, zone="b"),
            *failed_slates(START, START + 0.5, "14", 0.2),
            *failed_slates(START + 0.5, START + 3.5, "8", 0.04),
            Deviation(
                START + 0.5,
                START + 3.5,
                0.04 * SLATES,
                "vireo_rpcs_shed_total",
                labels={"zone": "a"},
            ),
            Deviation(
                START + 0.5,
                START + 3.5,
                0.04 * SLATES,
                "vireo_rpcs_shed_total",
                labels={"zone": "c"},
            ),
            *(
                Deviation(
                    START,
                    START + 30,
                    members,
                    "envoy_cluster_membership_healthy",
                    labels={"zone": zone, "envoy_cluster_name": cluster},
                )
                for zone in "ac"
                for cluster, members in (("gateway", 27), ("candidate", 4), ("ranking", 4))
            ),
        ],
        [Page("VireoShedding", 2, 4, 6)],
        frozenset(
            {
                "VireoEdgeDown",
                "VireoPodHangs",
                "VireoEndpointsMissing",
                "VireoConsumerDown",
                "VireoControlPlaneDown",
            }
        ),
    ),
    Day(
        "the log is away for a quarter of an hour",
        log_away(START, START + 15),
        [
            Page("VireoLogDown", 1, 15, 18),
            Page("VireoEventsRefused", 2, 15, 18),
            Page("VireoSlatesDegraded", 13, 16, 50),
        ],
    ),
    Day(
        "a rolling update replaces a quarter of each fleet at a time",
        [
            *rolled("edge", 1),
            *rolled("gateway", 10),
            *rolled("candidate", 1),
            *rolled("ranking", 1),
            *rolled("consumer", 1),
            *rolled("control", 1),
        ],
        tickets=frozenset({"VireoPodDown", "VireoConsumerDown", "VireoControlPlaneDown"}),
    ),
    Day(
        "nightly jobs slow the night down, and promote a release",
        [
            Deviation(30, 90, 0.985 * SLATES, "vireo_rpc_seconds_bucket", labels={"le": "0.1"}),
            Deviation(90, LENGTH, 5400, "vireo_features_built_timestamp_seconds"),
            *promoted(91, 92.5),
            *(
                Deviation(94, 96, 1, "vireo_features_behind", labels={"pod": f"gateway-{number}"})
                for number in range(8)
            ),
        ],
    ),
)


def firing(severity: str, **more: str) -> str:
    """Return the alerts of the installation whom nothing mutes, by alert."""
    label = {
        "alertstate": "firing",
        "installation": INSTALLATION,
        "severity": severity,
        **more,
    }
    matchers = ",".join(f'{name}="{value}"' for name, value in label.items())
    text = f"ALERTS{{{matchers}}}"
    for rule in yaml.safe_load((FOLDER / "alertmanager.yaml").read_text())["inhibit_rules"]:
        target, source = (
            ",".join(each.replace(" ", "") for each in rule[f"{kind}_matchers"])
            for kind in ("target", "source")
        )
        firing = 'alertstate="firing"'
        muted = (
            f"ALERTS{{{firing},{target}}} and on ({', '.join(rule['equal'])}) "
            f"ALERTS{{{firing},{source}}}"
        )
        text = f"({text} unless ({muted}))"
    return f"max by (alertname) ({text})"


def expectations(day: Day) -> list[dict[str, Any]]:
    """Return promtool's tests of a day, all of them at its end."""

    def holds(expression: str, *samples: tuple[str, float]) -> dict[str, Any]:
        return {
            "expr": expression,
            "eval_time": f"{LENGTH - 1}m",
            "exp_samples": [{"labels": labels, "value": value} for labels, value in samples],
        }

    def over_the_day(expression: str, function: str) -> str:
        return f"{function}(({expression})[{LENGTH}m:1m])"

    pages = firing("page")
    began = f"{pages} unless {pages.replace('}', '} offset 1m')}"
    # Those of objectives look back for days, which aren't recorded.
    tickets = (
        'ALERTS{alertstate="firing",severity="ticket",alertname!~"VireoSlates.*",'
        f'installation="{INSTALLATION}"}}'
    )
    yielded = [
        # Each comes once, and no other.
        holds(
            over_the_day(began, "count_over_time"),
            *((f'{{alertname="{page.alert}"}}', 1) for page in day.pages),
        ),
        holds(
            f"group by (alertname) (count_over_time({tickets}[1d]))",
            *((f'{{alertname="{name}"}}', 1) for name in sorted(day.tickets)),
        ),
        # Groups of rules are evaluated in any order, which shifts the day by a minute.
        holds(
            f"abs(sum(100 * vireo:slo_errors:ratio_rate1d{AVAILABILITY}) - {day.failed}) < bool 1",
            ("{}", 1),
        ),
        # What another installation lacks is its own.
        holds(
            f"count by (alertname) ({over_the_day(firing('watchdog'), 'min_over_time')})",
            ('{alertname="VireoWatchdog"}', 1),
        ),
    ]
    for page in day.pages:
        minutes = f"(time() / 60 - {START}) * {firing('page', alertname=page.alert)}"
        begins, ends = (over_the_day(minutes, f"{each}_over_time") for each in ("min", "max"))
        label = f'{{alertname="{page.alert}"}}'
        yielded += [
            holds(f"{begins} >= bool 0", (label, 1)),
            holds(f"{begins} <= bool {page.within}", (label, 1)),
            holds(f"{ends} >= bool {page.lasts - 1}", (label, 1)),
            holds(f"{ends} <= bool {page.ends}", (label, 1)),
        ]
    return yielded


@cache
def rules() -> str:
    """The chart's rules, in one file."""
    found = render("--set", "monitoring.rules.enabled=true")
    groups = [
        group for each in found.named("PrometheusRule").values() for group in each["spec"]["groups"]
    ]
    return yaml.safe_dump({"groups": groups})


@pytest.mark.parametrize("day", DAYS, ids=lambda day: day.title.replace(" ", "_"))
def test_a_day_comes_to_its_pages_in_time_and_to_no_other(day: Day, tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool isn't installed: make prometheus")
    (tmp_path / "rules.yaml").write_text(rules())
    document = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "name": day.title,
                "interval": f"{STEP}s",
                "input_series": recorded(day.deviations),
                "promql_expr_test": expectations(day),
            }
        ],
    }
    (tmp_path / "day.yaml").write_text(json.dumps(document))
    done = subprocess.run(
        ["promtool", "test", "rules", "day.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
