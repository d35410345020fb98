"""Prometheus metrics of a process's connection to the log."""

from __future__ import annotations

from prometheus_client import Gauge

CONNECTED = Gauge("vireo_log_connected", "1 while the log can be used.")
