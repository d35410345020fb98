"""Exponential backoff between attempts."""

from __future__ import annotations


def backoff(failures: int, first: float, maximum: float) -> float:
    """Return the seconds to wait after `failures` consecutive failures, at least one.

    Args:
        failures: number of consecutive failures.
        first: delay after the first one, in seconds; it doubles with each.
        maximum: maximum delay in seconds.
    """
    return min(maximum, first * 2.0 ** min(failures - 1, 30))
