"""How long one pod may take of a call's time, so that another can be asked in what is left."""

from __future__ import annotations

TRY_HEADER = "x-envoy-upstream-rq-per-try-timeout-ms"
_SHARE = 0.5
_MIN_SECONDS = 0.1
"""A pod that isn't slow answers within this. With less, calls of slow moments would fail twice, and
callers in a hurry would have Envoy leave out pods that are slow for a moment as if they hung."""


def one_try(budget: float) -> tuple[tuple[str, str], ...]:
    """Metadata by which Envoy gives up on one pod and asks another.

    gRPC's own xDS client knows no such limit and passes it on.

    Args:
        budget: seconds that the whole call may take.
    """
    return ((TRY_HEADER, str(round(1000 * max(_MIN_SECONDS, _SHARE * budget)))),)
