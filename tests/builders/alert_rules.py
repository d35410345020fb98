"""The rules of Prometheus and what our dashboards show, as they are written."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from vireo.ops.stack.observe import FOLDER

RULES = sorted((FOLDER / "rules").glob("*.yaml"))
DASHBOARDS = sorted((FOLDER / "dashboards").glob("*.json"))


@cache
def _groups() -> list[dict[str, Any]]:
    """Return the groups of rules of all files."""
    files = (yaml.load(file.read_text(), yaml.CSafeLoader) for file in RULES)
    return [group for file in files for group in file["groups"]]


def rules(kind: str) -> list[dict[str, Any]]:
    """All rules of a kind: "alert" or "record"."""
    return [rule for group in _groups() for rule in group["rules"] if kind in rule]


def panels(dashboard: Path) -> list[dict[str, Any]]:
    """The panels of a dashboard that show something."""
    document = json.loads(dashboard.read_text())
    return [panel for panel in document["panels"] if panel["type"] != "row"]
