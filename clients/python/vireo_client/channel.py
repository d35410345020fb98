"""How a channel connects, keeps its connection and retries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vireo_client.messages import SERVICE
from vireo_client.version import __version__

Options = Sequence[tuple[str, Any]]

MOST_ATTEMPTS = 5
"""More of them gRPC does not make."""


def channel_options(attempts: int, further: Options) -> list[tuple[str, Any]]:
    """The options of a channel.

    Args:
        attempts: how often a request may be sent, 1 to 5.
        further: the caller's own; they count more.

    Raises:
        ValueError: attempts is out of bounds.
    """
    if not 1 <= attempts <= MOST_ATTEMPTS:
        raise ValueError(f"attempts must be from 1 to {MOST_ATTEMPTS}, not {attempts}")
    own = {
        "grpc.primary_user_agent": f"vireo-client/{__version__}",
        "grpc.service_config": json.dumps(_service_config(attempts)),
        # A connection that is silently gone is noticed within 40 s, also while nothing is asked.
        # The server takes a ping every 10 s.
        "grpc.keepalive_time_ms": 30_000,
        "grpc.keepalive_timeout_ms": 10_000,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
        # A server that is back is found within seconds; the default grows to two minutes.
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.min_reconnect_backoff_ms": 1_000,  # also how long a connection may take to come up
        "grpc.max_reconnect_backoff_ms": 2_000,
    }
    return list({**own, **dict(further)}.items())


def _service_config(attempts: int) -> dict[str, Any]:
    if attempts == 1:
        return {}
    return {
        "methodConfig": [
            {
                "name": [{"service": SERVICE}],
                "retryPolicy": {
                    "maxAttempts": attempts,
                    "initialBackoff": "0.02s",
                    "maxBackoff": "0.5s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        # While more than about one in ten attempts fails, nothing is retried: retries help
        # against a pod that is gone, not against a service that is.
        "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.1},
    }
