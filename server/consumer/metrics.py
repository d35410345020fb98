"""Prometheus metrics of a consumer."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

EVENTS = Counter("vireo_consumer_events", "Events applied to viewers' rows.", ["kind"])
DEAD = Counter("vireo_consumer_dead_events", "Messages of events that were set aside.")
RETRIES = Counter(
    "vireo_consumer_retries", "Batches tried again because the online store or the log was away."
)
BATCH_SECONDS = Histogram(
    "vireo_consumer_batch_seconds",
    "Seconds to apply a batch.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)
LAG_MESSAGES = Gauge("vireo_consumer_lag_messages", "Messages of the log that aren't applied.")
LAG_SECONDS = Gauge(
    "vireo_consumer_lag_seconds", "Seconds since the oldest event that isn't applied came in."
)
POSITION = Gauge("vireo_consumer_position", "Position in the log up to which rows have the events.")
LEASE_HELD = Gauge("vireo_consumer_lease_held", "1 while this process applies the partition.")
