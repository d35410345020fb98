"""Channel options: connection, keepalive and retries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vireo_client.methods import UNARY
from vireo_client.version import __version__

Options = Sequence[tuple[str, Any]]

MAX_ATTEMPTS = 5
"""gRPC's own maximum."""


def channel_options(attempts: int, further: Options) -> list[tuple[str, Any]]:
    """Return the options of a channel.

    Args:
        attempts: maximum attempts of a call, 1 to 5.
        further: the caller's options, which take precedence.

    Raises:
        ValueError: attempts is out of bounds.
    """
    if not 1 <= attempts <= MAX_ATTEMPTS:
        raise ValueError(f"attempts must be from 1 to {MAX_ATTEMPTS}, not {attempts}")
    own = {
        "grpc.primary_user_agent": f"vireo-client/{__version__}",
        "grpc.service_config": json.dumps(_service_config(attempts)),
        # Detects a silently lost connection within 40 s, even without calls. The server allows
        # a ping every 10 s.
        "grpc.keepalive_time_ms": 30_000,
        "grpc.keepalive_timeout_ms": 10_000,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
        # Reconnects within seconds; the default backoff grows to two minutes.
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.min_reconnect_backoff_ms": 1_000,  # also the timeout of an attempt to connect
        "grpc.max_reconnect_backoff_ms": 2_000,
    }
    return list({**own, **dict(further)}.items())


def _service_config(attempts: int) -> dict[str, Any]:
    if attempts == 1:
        return {}
    return {
        "methodConfig": [
            {
                # Not those that write: if the log is away, that is seconds, not milliseconds.
                "name": [
                    {"service": each.service, "method": each.name}
                    for each in UNARY
                    if not each.writes
                ],
                "retryPolicy": {
                    "maxAttempts": attempts,
                    "initialBackoff": "0.02s",
                    "maxBackoff": "0.5s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        # No retries while more than about one in ten attempts fails: retries help if a pod is
        # down, but not if the service is.
        "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.1},
    }
