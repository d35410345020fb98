"""Make Prometheus' rules, runbooks and doctor's list of causes from the table of conditions.

`python -m docs.generate` writes them. The table is `deploy/observability/conditions`, and
`vireo.ops.doctor.conditions` says what it has beside the fields of Prometheus' own rules: of an
alert what a viewer notices, what the alert means, how to find its cause, and how to mend it.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vireo.ops.doctor.conditions import FOLDER, alerts, conditions, tables

_DOCS = Path(__file__).parent
_RULES, _RUNBOOKS, _DOCTOR = FOLDER.parent / "rules", _DOCS / "runbooks", _DOCS / "doctor.md"
_OWN = ("viewers", "means", "find", "mend", "causes")
"""Fields of the table that Prometheus doesn't know."""
_ALERTS = "| alert | what a viewer notices |\n|---|---|\n"
_METRIC = re.compile(r"\b(?:vireo|envoy)[:_][\w:]+")
_CAUSES = "| cause | case | what is wrong | alert |\n|---|---|---|---|\n"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)


def condition_files() -> dict[Path, str]:
    """Return the files that are made from the table, by path."""
    found = {_RULES / f"{name}.yaml": _rules(name, table) for name, table in tables().items()}
    described = {each["alert"]: each for each in alerts() if "viewers" in each}
    found |= {_RUNBOOKS / f"{name}.md": _runbook(each) for name, each in described.items()}
    listed = (f"| [{name}]({name}.md) | {described[name]['viewers']} |" for name in described)
    found[_RUNBOOKS / "README.md"] = _with_table(_RUNBOOKS / "README.md", _ALERTS, sorted(listed))
    causes = [
        f"| `{each.cause}` | {', '.join(dict.fromkeys(str(fault.case) for fault in each.faults))} "
        f"| {re.sub(r'{[a-z]+}', '…', each.title)} "
        f"| {f'[{each.alert}](runbooks/{each.alert}.md)' if each.alert else ''} |"
        for each in conditions().values()
    ]
    found[_DOCTOR] = _with_table(_DOCTOR, _CAUSES, causes)
    return found


def _rules(name: str, table: Mapping[str, Any]) -> str:
    groups = [
        {**group, "rules": [_rule(rule) for rule in group["rules"]]} for group in table["groups"]
    ]
    text = yaml.dump({"groups": groups}, Dumper=_Dumper, sort_keys=False, width=10_000)
    return f"# Made from conditions/{name}.yaml, which says why: python -m docs.generate\n\n{text}"


def _rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in rule.items() if name not in _OWN}
    if "alert" in rule:
        runbook = f"docs/runbooks/{rule['alert']}.md"
        plain["annotations"] = {**rule["annotations"], "runbook": runbook}
    return plain


def _runbook(alert: Mapping[str, Any]) -> str:
    first = textwrap.fill(f"**What a viewer notices:** {alert['viewers']}", 120)
    return (
        f"# {alert['alert']}\n\n{first}\n\n"
        f"## What it means\n\n{alert['means']}{_dashboards(alert)}\n"
        f"## Find the cause\n\n{alert['find']}\n"
        f"## Mend it\n\n{alert['mend']}"
    )


def _dashboards(alert: Mapping[str, Any]) -> str:
    """Return a line with the dashboards that show what an alert's expression reads."""
    records = {
        rule["record"]: rule["expr"]
        for table in tables().values()
        for group in table["groups"]
        for rule in group["rules"]
        if "record" in rule
    }
    found, left = set[str](), {alert["expr"]}
    while left:
        names = {name for text in left for name in _METRIC.findall(text)} - found
        found |= names
        left = {records[name] for name in names & records.keys()}
    titles = [
        document["title"]
        for file in sorted((FOLDER.parent / "dashboards").glob("*.json"))
        for document in [json.loads(file.read_text())]
        if found & set(_METRIC.findall(json.dumps(document["panels"])))
    ]
    return f"\nDashboards: {', '.join(titles)}.\n" if titles else ""


def _with_table(page: Path, header: str, rows: list[str]) -> str:
    """Return a page with other rows below the header of its table."""
    before, found, after = page.read_text().partition(header)
    if not found:
        raise ValueError(f"{page} has no table that begins with {header.splitlines()[0]}")
    kept = after[re.match(r"(?:\|.*\n)*", after).end() :]  # type: ignore[union-attr]
    return before + header + "\n".join(rows) + "\n" + kept
