"""Prometheus metrics of the stages that a slate goes through, in each service."""

from __future__ import annotations

from prometheus_client import Counter

from vireo.server.histogram import Histogram

SECONDS = Histogram(
    "vireo_stage_seconds",
    "Time of a stage of a slate.",
    ["service", "stage"],
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
)
FAILURES = Counter(
    "vireo_stage_failures",
    "Stages that failed, and that the slate was made without, by reason.",
    ["service", "stage", "reason"],
)
