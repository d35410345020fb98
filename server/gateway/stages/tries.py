"""Timeout of one try of a call, which leaves time for another pod."""

from __future__ import annotations

TRY_HEADER = "x-envoy-upstream-rq-per-try-timeout-ms"
_SHARE = 0.5
_MIN_SECONDS = 0.1
"""A healthy pod responds within this. With less, callers in a hurry would have Envoy eject pods
that are slow for a moment."""


def one_try(budget: float) -> tuple[tuple[str, str], ...]:
    """Return metadata with Envoy's timeout of each try; gRPC's own xDS client ignores it.

    Args:
        budget: seconds that the whole call may take.
    """
    return ((TRY_HEADER, str(round(1000 * max(_MIN_SECONDS, _SHARE * budget)))),)
