"""The sets of values that the chart is rendered with: the published ones, and those of a layout."""

from __future__ import annotations

from functools import cache

from tests.builders.chart import VALUES, Rendered, flags, render

LAYOUTS = ("together", "both")
"""Layouts beside `separate`, each rendered with the values of production."""
SETS = ("default", *VALUES, *LAYOUTS)
SECURED = ("production", *LAYOUTS)
"""Sets with TLS."""


def arguments(values: str) -> list[str]:
    """Return Helm's flags for a set; none for "default", the chart's own values."""
    if values not in LAYOUTS:
        return ["--values", str(VALUES[values])] if values in VALUES else []
    scaled = '{"enabled": true, "minReplicas": 6}'
    settings = (f'layout="{values}"', f"slate.autoscaling={scaled}", "inferenceHttp.enabled=true")
    return ["--values", str(VALUES["production"]), *flags(*settings)]


@cache
def rendered(values: str) -> Rendered:
    """Return the chart with a set of values."""
    return render(*arguments(values))


def kinds(values: str) -> set[str]:
    """Return the kinds of pods that make slates in a set."""
    separate = {"gateway", "candidate", "ranking"}
    return {"together": {"slate"}, "both": {*separate, "slate"}}.get(values, separate)
