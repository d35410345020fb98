"""Rules, alerts and dashboards, as far as they can be checked without a running stack."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from tests.builders.alert_rules import DASHBOARDS, panels, rules
from tests.builders.metrics_table import documented
from vireo.ops.cli.__main__ import LazyGroup, app
from vireo.ops.doctor.conditions import alerts, conditions
from vireo.ops.stack.observe import FOLDER

ROOT = Path(__file__).parents[3]
RUNBOOKS = ROOT / "docs" / "runbooks"
TESTS = sorted((FOLDER / "rules" / "tests").glob("*.yaml"))
_OF_OTHERS = re.compile(r"(up|ALERTS|scrape_duration_seconds|process_\w+|envoy_\w+|kube_\w+)")
"""Metrics that aren't ours, which `docs/metrics.md` doesn't list."""


def expressions() -> list[str]:
    """The expressions of all rules and panels."""
    shown = [t["expr"] for each in DASHBOARDS for panel in panels(each) for t in panel["targets"]]
    return [rule["expr"] for kind in ("alert", "record") for rule in rules(kind)] + shown


def checked(program: str, *arguments: str | Path) -> None:
    if shutil.which(program) is None:
        pytest.skip(
            f"{program} isn't installed: apt-get install prometheus prometheus-alertmanager"
        )
    command = [program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_and_alertmanager_take_their_configuration() -> None:
    checked("promtool", "check", "config", "--lint=none", FOLDER / "prometheus.yaml")
    checked("amtool", "check-config", FOLDER / "alertmanager.yaml")


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_rules_tell_what_they_should_and_nothing_else(file: Path) -> None:
    checked("promtool", "test", "rules", file)


@pytest.mark.parametrize("kind", ["alert", "record"])
def test_every_rule_has_a_test(kind: str) -> None:
    tested = "".join(file.read_text() for file in TESTS)
    untested = {rule[kind] for rule in rules(kind) if not re.search(rf"\b{rule[kind]}\b", tested)}
    # Those of longer windows differ by the window only, and are counted together.
    assert {name for name in untested if "ratio_rate" not in name} == set()


def test_every_alert_says_who_is_told_and_what_a_viewer_notices() -> None:
    for alert in alerts():
        assert alert["labels"]["severity"] in ("page", "ticket", "watchdog"), alert["alert"]
        assert alert["annotations"].keys() >= {"summary", "description"}
    described = [alert for alert in alerts() if "viewers" in alert]
    assert {alert["alert"] for alert in alerts()} == {alert["alert"] for alert in described}
    assert all(alert[part] for alert in described for part in ("means", "find", "mend"))


def test_every_page_has_an_alert() -> None:
    pages = {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == {alert["alert"] for alert in alerts()}


def test_every_fault_that_proves_a_condition_has_an_alert_that_is_there() -> None:
    known = {alert["alert"] for alert in alerts()} | {""}
    assert {fault.alert for each in conditions().values() for fault in each.faults} <= known


def test_doctor_and_pages_advise_commands_that_are_there() -> None:
    fixes = [
        text
        for each in conditions().values()
        for case in ("", *each.variants)
        for text in (each.in_case(case).title, each.in_case(case).fix)
    ]
    texts = [*fixes, *(page.read_text() for page in RUNBOOKS.glob("*.md"))]
    advised = {
        found
        for text in texts
        for found in re.findall(r"\bvireo ((?:[a-z]+(?:-[a-z]+)* ?)+(?:--\w+)?)", text)
    }
    assert len(advised) > 10
    program = typer.main.get_command(app)
    assert {each for each in advised if not is_command(program, each.split())} == set()


def is_command(command: Any, words: list[str]) -> bool:
    """Whether `words` are a subcommand with or without an option, or a group of them."""
    if not words:
        return True
    first, *rest = words
    if commands := getattr(command, "commands", None):
        load = command.loaded if isinstance(command, LazyGroup) else commands.get
        return first in commands and is_command(load(first), rest)
    options = {option for parameter in command.params for option in parameter.opts}
    return not first.startswith("--") or first in options


def test_an_alert_is_muted_by_one_as_severe_in_its_own_installation_and_no_objective_is() -> None:
    severities = {each["alert"]: set[str]() for each in rules("alert")}
    for each in rules("alert"):
        severities[each["alert"]].add(each["labels"]["severity"])
    document = yaml.safe_load((FOLDER / "alertmanager.yaml").read_text())
    own_ticket, *causes = document["inhibit_rules"]
    assert own_ticket == {
        "source_matchers": ['severity = "page"'],
        "target_matchers": ['severity = "ticket"'],
        "equal": ["alertname", "cluster", "installation"],
    }
    muted = set[str]()
    for rule in causes:
        assert rule["equal"] == ["cluster", "installation"]
        name, severity = rule["source_matchers"]
        assert severity == 'severity = "page"', "nothing is more severe"
        assert "page" in severities[name.split('"')[1]]
        # With `=`, "A|B" is the name of no alert, which Alertmanager takes as well.
        matched, names, _ = rule["target_matchers"][0].split('"')
        assert matched == "alertname =~ "
        alerts = names.split("|")
        assert severities.keys() >= {*alerts}
        muted.update(alerts)
    assert not any(name.startswith("VireoSlates") for name in muted)


def test_rules_need_no_label_that_a_scrape_in_kubernetes_renames() -> None:
    of_targets = {"namespace", "pod", "container", "endpoint", "node", "instance", "job"}
    for row in documented().values():
        assert not of_targets & set(row.labels), row.name
    for expression in expressions():
        assert not re.search(r"\b(exported_\w+|service)\b", expression), expression


def test_every_selector_of_a_rule_has_braces_into_which_the_chart_writes_the_installation() -> None:
    for expression in expressions():
        bare = re.sub(r'"[^"]*"|\b(by|on|ignoring) ?\([^)]*\)', "", expression)
        bare = re.sub(r"\{[^}]*\}", "{}", bare)
        metrics = r"(?:vireo[:_]|envoy_|process_|scrape_)[\w:]+|\bup\b"
        assert re.findall(rf"(?:{metrics})(?!\{{|[\w:])", bare) == [], expression


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.stem)
def test_a_dashboard_shows_the_installation_that_is_chosen_or_all(dashboard: Path) -> None:
    document = json.loads(dashboard.read_text())
    _, installation = document["templating"]["list"]
    assert (installation["name"], installation["includeAll"]) == ("installation", True)
    assert installation["allValue"] == ".*", "targets without the label are shown, too"
    for expression in re.findall(r'"expr": "(.*)"', dashboard.read_text()):
        chosen = r"{installation=~\"$installation\""
        assert expression.count("{") == expression.count(chosen) > 0, expression


def test_rules_and_panels_read_metrics_that_the_table_lists() -> None:
    listed = set[str]()
    for row in documented().values():
        parts = ("_bucket", "_sum", "_count") if row.kind == "histogram" else ("",)
        listed |= {f"{row.name}{part}" for part in parts}
    recorded = {rule["record"] for rule in rules("record")}
    for expression in expressions():
        bare = re.sub(r'"[^"]*"|\{[^}]*\}|\b(by|on|ignoring) \([^)]*\)', "", expression)
        for name in re.findall(r"\b(?:vireo:[\w:]+|vireo_\w+)", bare):
            assert name in listed | recorded, f"{name} in {expression}"
        for name in re.findall(r"(?<![:\w])[a-z]+_\w+(?=[{\[])", expression):
            known = name in listed or _OF_OTHERS.fullmatch(name)
            assert known, f"{name} in {expression}"


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.stem)
def test_a_dashboard_explains_each_panel_and_none_covers_another(dashboard: Path) -> None:
    document = json.loads(dashboard.read_text())
    assert document["uid"] == f"vireo-{dashboard.stem}"
    ids = Counter(panel["id"] for panel in document["panels"])
    assert max(ids.values()) == 1
    taken: set[tuple[int, int]] = set()
    for panel in document["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + column, place["y"] + row)
            for column in range(place["w"])
            for row in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(column for column, _ in cells) < 24
        taken |= cells
    for panel in panels(dashboard):
        assert panel["title"]
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
