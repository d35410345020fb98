"""The rules of Prometheus and what our dashboards show, as they are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from vireo.ops.stack.observe import FOLDER

RULES = sorted((FOLDER / "rules").glob("*.yaml"))
DASHBOARDS = sorted((FOLDER / "dashboards").glob("*.json"))


def rules(kind: str) -> list[dict[str, Any]]:
    """All rules of a kind: "alert" or "record"."""
    groups = [group for file in RULES for group in yaml.safe_load(file.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def panels(dashboard: Path) -> list[dict[str, Any]]:
    """The panels of a dashboard that show something."""
    document = json.loads(dashboard.read_text())
    return [panel for panel in document["panels"] if panel["type"] != "row"]
