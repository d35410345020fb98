"""Spans of sampled calls, exported by OpenTelemetry."""
