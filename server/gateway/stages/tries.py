"""How long one pod may take of a call's time, so that another can be asked in what is left."""

from __future__ import annotations

TRY_HEADER = "x-envoy-upstream-rq-per-try-timeout-ms"
_SHARE = 0.5
_LEAST_SECONDS = 0.05
"""A pod that isn't slow answers within this; less would make calls of slow moments fail twice."""


def one_try(budget: float) -> tuple[tuple[str, str], ...]:
    """Metadata by which Envoy gives up on one pod and asks another.

    gRPC's own xDS client knows no such limit and passes it on.

    Args:
        budget: seconds that the whole call may take.
    """
    return ((TRY_HEADER, str(round(1000 * max(_LEAST_SECONDS, _SHARE * budget)))),)
