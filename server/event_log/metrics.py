"""Prometheus metrics of a process's connection to the log."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

CONNECTED = Gauge("vireo_log_connected", "1 while the log can be used.")
MISSED = Counter(
    "vireo_log_missed_messages_total",
    "Messages that the log kept no longer when they were to be read, whatever their partition.",
)
